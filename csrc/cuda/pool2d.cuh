// What pooling kernels share. A thread makes one vector of V channels (V = 1: one element) of the
// tensor it writes, which is dense: its element offset is index * V in either layout. V > 1 needs
// channels_last. I is the integer of indices: 64-bit arithmetic is slow on a GPU, so it serves only
// tensors that need it.
#pragma once

#include <initializer_list>

#include "../op/pool2d.h"
#include "pointwise.cuh"
#include "tile/divide.cuh"

namespace torchext {

using tile::Divider;

constexpr int kThreads = 256;  // a block: 8 blocks fill an SM at up to 32 registers, 4 at up to 64

template <class I>
struct StridesOf {
  I n, c, h, w;
  explicit StridesOf(const Strides& s)
      : n(static_cast<I>(s.n)),
        c(static_cast<I>(s.c)),
        h(static_cast<I>(s.h)),
        w(static_cast<I>(s.w)) {}
};

// The geometry of a launch: `vectors` of V channels each, and the tensor that is written, `rows` x
// `columns`, of which the launch makes `count` vectors.
template <class I>
struct Geometry {
  Divider<I> H, W, OH, OW;
  WindowOf<I, Divider<I>> h, w;
  Divider<I> vectors, rows, columns;
  I count;
  bool channels_last;

  Geometry(const Pool2d& p, int64_t V, int64_t rows, int64_t columns, const Strides& written)
      : H(p.H),
        W(p.W),
        OH(p.OH),
        OW(p.OW),
        h(window(p.h)),
        w(window(p.w)),
        vectors(p.C / V),
        rows(rows),
        columns(columns),
        count(static_cast<I>(p.N * (p.C / V) * rows * columns)),
        channels_last(written.c == 1 && written.w != 1) {}

 private:
  static WindowOf<I, Divider<I>> window(const Window& w) {
    return {static_cast<I>(w.kernel), Divider<I>(w.stride), static_cast<I>(w.padding),
            Divider<I>(w.dilation)};
  }
};

// The element that a thread begins with.
template <class I>
struct Place {
  I n, c, h, w;
};

template <int V, class I>
__device__ __forceinline__ Place<I> place_of(const Geometry<I>& g, I index) {
  if (V > 1 || g.channels_last) {
    const I pixel = index / g.vectors, row = pixel / g.columns, n = row / g.rows;
    return {n, (index - pixel * g.vectors) * V, row - n * g.rows, pixel - row * g.columns};
  }
  const I row = index / g.columns, plane = row / g.rows, n = plane / g.vectors;
  return {n, plane - n * g.vectors, row - plane * g.rows, index - row * g.columns};
}

// A tensor as the host sees it: strides, and its size along h and w.
struct View {
  Strides stride;
  int64_t H, W;
};

// Whether 32 bits hold every index and product of a launch over these tensors.
inline bool fits_32_bits(const Pool2d& p, std::initializer_list<View> views) {
  constexpr int64_t kMost = INT32_MAX;
  for (int64_t value : {p.H, p.W, p.OH, p.OW, p.h.kernel, p.h.stride, p.h.padding, p.h.dilation,
                        p.w.kernel, p.w.stride, p.w.padding, p.w.dilation}) {
    if (value > kMost / 8) return false;  // sums of a few of them are coordinates
  }
  if (p.h.kernel * p.w.kernel > kMost / 2 || p.H * p.W > kMost / 2 ||
      (p.OH + 1) * p.H > kMost / 2 || (p.OW + 1) * p.W > kMost / 2) {
    return false;  // taps of a window, of a global one, adaptive_window()'s products
  }
  for (const View& v : views) {
    const int64_t last = (p.N - 1) * v.stride.n + (p.C - 1) * v.stride.c + (v.H - 1) * v.stride.h +
                         (v.W - 1) * v.stride.w;
    if (last >= kMost) return false;
  }
  return true;
}

// Starts `kernel`, which takes `parameters` alone, with one thread for each vector that it makes.
template <class P>
void launch_over(const char* op, void (*kernel)(P), const P& parameters, const Queue& queue) {
  const dim3 grid = tile::blocks_for(op, parameters.g.count, kThreads);
  tile::launch_kernel(op, kernel, grid, kThreads, 0, queue, parameters);
}

}  // namespace torchext
