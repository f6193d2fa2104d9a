// The recurrent cells: what a step does to hidden units, one number or one vector V of them at a
// time, with the sigmoid and tanh that Math has. A cell is
//   kGates, kSaved  rows of H that it computes, and saves for its gradient: the last is the new h
//   kHasC           whether it has a second state
//   kOwnDr          whether the gradients of the products x and r differ
//   forward         from the products x and r (see ../op/recurrent.h) and the states h and c before
//                   the step: the new h, c in place, and what is saved but for h
//   backward        from dh and dc, the gradients of the new states: those of the products, dx and
//                   dr, and of the old states, dc in place, and dh what does not pass through dr
#pragma once

#include "plain.h"

#ifdef __CUDACC__
#define CELL static __device__ __forceinline__
#else
#define CELL PLAIN
#endif

namespace torchext {

template <class Math>
struct LstmCell {
  static constexpr int kGates = 4, kSaved = 6;
  static constexpr bool kHasC = true, kOwnDr = false;

  template <class V>
  CELL V forward(const V* x, const V* r, V, V& c, V* saved) {
    const V i = Math::sigmoid(x[0] + r[0]), f = Math::sigmoid(x[1] + r[1]);
    const V g = Math::tanh(x[2] + r[2]), o = Math::sigmoid(x[3] + r[3]);
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
    c = f * c + i * g;
    return o * Math::tanh(c);
  }
  template <class V>
  CELL void backward(const V* saved, V, V& dh, V& dc, V* dx, V* dr) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3], c = saved[4];
    const V t = Math::tanh(f * c + i * g);
    dc += dh * o * (1 - t * t);
    dx[0] = dr[0] = dc * g * (1 - i) * i;
    dx[1] = dr[1] = dc * c * (1 - f) * f;
    dx[2] = dr[2] = dc * i * (1 - g * g);
    dx[3] = dr[3] = dh * t * (1 - o) * o;
    dc *= f;
    dh = V{};
  }
};

template <class Math>
struct GruCell {
  static constexpr int kGates = 3, kSaved = 5;
  static constexpr bool kHasC = false, kOwnDr = true;

  template <class V>
  CELL V forward(const V* x, const V* r, V h, V&, V* saved) {
    const V reset = Math::sigmoid(x[0] + r[0]), z = Math::sigmoid(x[1] + r[1]);
    const V n = Math::tanh(x[2] + reset * r[2]);
    saved[0] = reset, saved[1] = z, saved[2] = n, saved[3] = r[2];
    return n + z * (h - n);
  }
  template <class V>
  CELL void backward(const V* saved, V h, V& dh, V&, V* dx, V* dr) {
    const V reset = saved[0], z = saved[1], n = saved[2];
    dx[2] = (dh - dh * z) * (1 - n * n);
    dx[0] = dr[0] = dx[2] * saved[3] * (1 - reset) * reset;
    dx[1] = dr[1] = dh * (h - n) * (1 - z) * z;
    dr[2] = dx[2] * reset;
    dh *= z;
  }
};

template <class Math, bool kRelu>
struct RnnCell {
  static constexpr int kGates = 1, kSaved = 1;
  static constexpr bool kHasC = false, kOwnDr = false;

  template <class V>
  CELL V forward(const V* x, const V* r, V, V&, V*) {
    const V sum = x[0] + r[0];
    if constexpr (kRelu) {
      return sum < 0 ? V{} : sum;  // NaN and -0 stay
    } else {
      return Math::tanh(sum);
    }
  }
  template <class V>
  CELL void backward(const V* saved, V, V& dh, V&, V* dx, V* dr) {
    const V h = saved[0];
    if constexpr (kRelu) {
      dx[0] = dr[0] = h <= 0 ? V{} : dh;
    } else {
      dx[0] = dr[0] = dh * (1 - h * h);
    }
    dh = V{};
  }
};

}  // namespace torchext

#undef CELL
