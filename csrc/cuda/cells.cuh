// The recurrent cells: what a step does to one hidden unit. See ../cpu/cells.h for their parts.
#pragma once

#include "../op/recurrent.h"
#include "pointwise.cuh"
#include "tile/math.cuh"

namespace torchext {

struct Lstm {
  static constexpr int kGates = 4, kSaved = 6;
  static constexpr bool kHasC = true, kOwnDr = false;

  template <class F>
  __device__ __forceinline__ static F forward(const F (&x)[4], const F (&r)[4], F, F& c,
                                              F (&saved)[6]) {
    const F i = tile::sigmoid(x[0] + r[0]), f = tile::sigmoid(x[1] + r[1]);
    const F g = tile::tanh_of(x[2] + r[2]), o = tile::sigmoid(x[3] + r[3]);
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
    c = f * c + i * g;
    return o * tile::tanh_of(c);
  }
  template <class F>
  __device__ __forceinline__ static void backward(const F (&saved)[6], F, F& dh, F& dc, F (&dx)[4],
                                                  F (&dr)[4]) {
    const F i = saved[0], f = saved[1], g = saved[2], o = saved[3], c = saved[4];
    const F t = tile::tanh_of(f * c + i * g);
    dc += dh * o * (1 - t * t);
    dx[0] = dr[0] = dc * g * (1 - i) * i;
    dx[1] = dr[1] = dc * c * (1 - f) * f;
    dx[2] = dr[2] = dc * i * (1 - g * g);
    dx[3] = dr[3] = dh * t * (1 - o) * o;
    dc *= f;
    dh = 0;
  }
};

struct Gru {
  static constexpr int kGates = 3, kSaved = 5;
  static constexpr bool kHasC = false, kOwnDr = true;

  template <class F>
  __device__ __forceinline__ static F forward(const F (&x)[3], const F (&r)[3], F h, F&,
                                              F (&saved)[5]) {
    const F reset = tile::sigmoid(x[0] + r[0]), z = tile::sigmoid(x[1] + r[1]);
    const F n = tile::tanh_of(x[2] + reset * r[2]);
    saved[0] = reset, saved[1] = z, saved[2] = n, saved[3] = r[2];
    return n + z * (h - n);
  }
  template <class F>
  __device__ __forceinline__ static void backward(const F (&saved)[5], F h, F& dh, F&, F (&dx)[3],
                                                  F (&dr)[3]) {
    const F reset = saved[0], z = saved[1], n = saved[2];
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
  static constexpr bool kHasC = false, kOwnDr = false;

  template <class F>
  __device__ __forceinline__ static F forward(const F (&x)[1], const F (&r)[1], F, F&, F (&)[1]) {
    const F sum = x[0] + r[0];
    if (kRelu) return sum < 0 ? F(0) : sum;  // NaN and -0 stay
    return tile::tanh_of(sum);
  }
  template <class F>
  __device__ __forceinline__ static void backward(const F (&saved)[1], F, F& dh, F&, F (&dx)[1],
                                                  F (&dr)[1]) {
    const F h = saved[0];
    if (kRelu) {
      dx[0] = dr[0] = h <= 0 ? F(0) : dh;
    } else {
      dx[0] = dr[0] = dh * (1 - h * h);
    }
    dh = 0;
  }
};

// function(Cell{}, W{}) for a layer's cell and the type of its weights.
template <class Function>
void for_cell(const Recurrent& p, const Function& function) {
  const auto typed = [&](auto cell) {
    for_dtype(p.stored, [&](auto zero) { function(cell, zero); });
  };
  switch (p.cell) {
    case Cell::lstm:
      return typed(Lstm{});
    case Cell::gru:
      return typed(Gru{});
    case Cell::rnn_tanh:
      return typed(Rnn<false>{});
    case Cell::rnn_relu:
      return typed(Rnn<true>{});
  }
}

}  // namespace torchext
