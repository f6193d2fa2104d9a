// Images and weights as products read them: pixels of channels that lie side by side, each group's
// rounded up to whole vectors. What does not lie so is copied, once a call, by a kernel of its own.
#pragma once

#include "../op/conv2d.h"
#include "activation.cuh"
#include "pointwise.cuh"
#include "tile/divide.cuh"
#include "tile/queue.cuh"

namespace torchext {

template <class T>
struct Laid {
  const T* data;
  int64_t n, h, w;  // strides
  int channels;     // of a group, as they lie
};

// [N][groups * C][H][W], of any strides.
struct Tensor4 {
  const void* data;
  Strides stride;
  int64_t N, C, H, W, groups;  // C: of a group
};

// What gates a gradient: the result y of an activation.
struct ResultGate {
  Activation activation;
  const void* y;  // null: none
  Strides stride;
};

template <class T>
struct Copy {
  Strides stride, gate_stride;
  const T *from, *gate;
  T* to;
  Activation activation;
  tile::Divider<int64_t> vectors, of_group, W, H;  // vectors: of a pixel, of a group's channels
  int64_t pixels, C;
  bool along_pixels;
};

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) lay_out_kernel(const Copy<T> p) {
  const int64_t index = pointwise_begin<1>();
  if (index >= p.pixels * p.vectors) return;
  const int64_t pixel = p.along_pixels ? index % p.pixels : index / p.vectors;
  const int64_t vector = p.along_pixels ? index / p.pixels : index - pixel * p.vectors;
  const int64_t group = vector / p.of_group, c = (vector - group * p.of_group) * V;
  const int64_t row = pixel / p.W, w = pixel - row * p.W, n = row / p.H, h = row - n * p.H;
  const Strides &s = p.stride, &g = p.gate_stride;
  const int64_t first = group * p.C + c;
  const T* from = p.from + n * s.n + h * s.h + w * s.w + first * s.c;
  const T* gate = p.gate ? p.gate + n * g.n + h * g.h + w * g.w + first * g.c : nullptr;
  Pack<T, V> pack{};
#pragma unroll
  for (int k = 0; k < V; ++k) {
    if (c + k >= p.C) continue;
    pack.lanes[k] = from[k * s.c];
    if (!gate) continue;
    pack.lanes[k] = tile::narrow<T>(
        gated(p.activation, tile::widen(pack.lanes[k]), tile::widen(gate[k * g.c])));
  }
  tile::store(p.to + (pixel * p.vectors + vector) * V, pack);
}

// A copy, laid out.
template <class T>
Laid<T> laid_out_copy(const char* op, const Tensor4& x, const ResultGate& gate,
                      const Queue& queue) {
  constexpr int V = kVector<T>;
  const int64_t pixels = x.N * x.H * x.W;
  const int64_t of_group = ceil_div(x.C, V), vectors = of_group * x.groups;
  T* to = tile::scratch<T>(queue, pixels * vectors * V);
  const Copy<T> copy{x.stride,
                     gate.stride,
                     static_cast<const T*>(x.data),
                     static_cast<const T*>(gate.y),
                     to,
                     gate.activation,
                     tile::Divider<int64_t>(vectors),
                     tile::Divider<int64_t>(of_group),
                     tile::Divider<int64_t>(x.W),
                     tile::Divider<int64_t>(x.H),
                     pixels,
                     x.C,
                     x.stride.c != 1};
  const int64_t count = pixels * vectors;
  if (count > 0) launch_pointwise(op, lay_out_kernel<T, V>, copy, count, 1, queue);
  const int64_t pixel = vectors * V;
  return {to, x.H * x.W * pixel, x.W * pixel, pixel, static_cast<int>(of_group * V)};
}

// Where it lies, if it lies well.
template <class T>
Laid<T> laid_out(const char* op, const Tensor4& x, const ResultGate& gate, const Queue& queue) {
  constexpr int V = kVector<T>;
  const Strides& s = x.stride;
  const bool whole = x.C % V == 0 && tile::aligned_for<T, V>(x.data) &&
                     (x.N == 1 || s.n % V == 0) && (x.H == 1 || s.h % V == 0) &&
                     (x.W == 1 || s.w % V == 0);
  if (gate.y || s.c != 1 || !whole) return laid_out_copy<T>(op, x, gate, queue);
  return {static_cast<const T*>(x.data), s.n, s.h, s.w, static_cast<int>(x.C)};
}

// The weight as [O][taps][channels], whose taps follow each other; its strides are (o, c, h, w).
template <class T>
Laid<T> laid_out_weight(const char* op, const Conv2dShape& p, const void* weight, const Strides& s,
                        const Queue& queue) {
  const Tensor4 w{weight, s, p.O, p.C / p.groups, p.h.kernel, p.w.kernel, 1};
  const bool follow = (w.W == 1 || s.w == w.C) && (w.H == 1 || s.h == w.C * w.W) &&
                      (w.N == 1 || s.n == w.C * w.W * w.H);
  Laid<T> laid = follow ? laid_out<T>(op, w, {}, queue) : laid_out_copy<T>(op, w, {}, queue);
  laid.n = w.H * w.W * laid.channels;
  return laid;
}

}  // namespace torchext
