// The recurrent cells: what a step does to the hidden units, one vector of them at a time. A cell
// is
//   kGates, kSaved  rows of H that it computes, and saves for its gradient: the last is the new h
//   kHasC           whether it has a second state
//   forward         from the products x and r (see ../op/recurrent.h) and the states h and c before
//                   the step: the new h, c in place, and what is saved but for h
//   backward        from dh and dc, the gradients of the new states: those of the products, dx and
//                   dr, and of the old states, dc in place, and dh what does not pass through dr
#pragma once

#include "math.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

struct Lstm {
  static constexpr int kGates = 4, kSaved = 6;
  static constexpr bool kHasC = true;

  template <class V>
  INLINE V forward(const V* x, const V* r, V, V& c, V* saved) {
    const V i = vsigmoid(x[0] + r[0]), f = vsigmoid(x[1] + r[1]);
    const V g = vtanh(x[2] + r[2]), o = vsigmoid(x[3] + r[3]);
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
    c = f * c + i * g;
    return o * vtanh(c);
  }

  template <class V>
  INLINE void backward(const V* saved, V, V& dh, V& dc, V* dx, V* dr) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3], c = saved[4];
    const V t = vtanh(f * c + i * g);
    dc += dh * o * (1 - t * t);
    dx[0] = dr[0] = dc * g * (1 - i) * i;
    dx[1] = dr[1] = dc * c * (1 - f) * f;
    dx[2] = dr[2] = dc * i * (1 - g * g);
    dx[3] = dr[3] = dh * t * (1 - o) * o;
    dc *= f;
    dh = V{};
  }
};

struct Gru {
  static constexpr int kGates = 3, kSaved = 5;
  static constexpr bool kHasC = false;

  template <class V>
  INLINE V forward(const V* x, const V* r, V h, V&, V* saved) {
    const V reset = vsigmoid(x[0] + r[0]), z = vsigmoid(x[1] + r[1]);
    const V n = vtanh(x[2] + reset * r[2]);
    saved[0] = reset, saved[1] = z, saved[2] = n, saved[3] = r[2];
    return n + z * (h - n);
  }

  template <class V>
  INLINE void backward(const V* saved, V h, V& dh, V&, V* dx, V* dr) {
    const V reset = saved[0], z = saved[1], n = saved[2];
    dx[2] = (dh - dh * z) * (1 - n * n);
    dx[0] = dr[0] = dx[2] * saved[3] * (1 - reset) * reset;
    dx[1] = dr[1] = dh * (h - n) * (1 - z) * z;
    dr[2] = dx[2] * reset;
    dh *= z;
  }
};

template <bool kRelu>
struct Rnn {
  static constexpr int kGates = 1, kSaved = 1;
  static constexpr bool kHasC = false;

  template <class V>
  INLINE V forward(const V* x, const V* r, V, V&, V*) {
    const V sum = x[0] + r[0];
    if constexpr (kRelu) return sum < 0 ? V{} : sum;  // NaN and -0 stay
    return vtanh(sum);
  }

  template <class V>
  INLINE void backward(const V* saved, V, V& dh, V&, V* dx, V* dr) {
    const V h = saved[0];
    if constexpr (kRelu) {
      dx[0] = dr[0] = h <= 0 ? V{} : dh;
    } else {
      dx[0] = dr[0] = dh * (1 - h * h);
    }
    dh = V{};
  }
};

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
