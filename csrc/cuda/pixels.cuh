// What becomes of a convolution's sums, and where they go.
#pragma once

#include "../op/conv2d.h"
#include "activation.cuh"
#include "pointwise.cuh"
#include "tile/divide.cuh"

namespace torchext {

struct Axis {  // of a window
  int kernel, stride, padding, dilation;
  explicit Axis(const Window& w)
      : kernel(static_cast<int>(w.kernel)),
        stride(static_cast<int>(w.stride)),
        padding(static_cast<int>(w.padding)),
        dilation(static_cast<int>(w.dilation)) {}
};

// What is done to a sum, and where it goes: pixel (n, h, w) of channels of a group.
template <class T>
struct Pixels {
  using F = Compute<T>;
  T* y;
  const T *bias, *residual;
  const F *scale, *shift;
  Strides y_stride, residual_stride;
  Activation activation;
  bool vectors;  // y and residual take 16 bytes at once
  int channels;  // of a group
  int first = 0;

  __device__ __forceinline__ void choose_group(int group) { first = group * channels; }
  // The sums become what is stored.
  template <int V>
  __device__ __forceinline__ void store_at(int64_t n, int64_t h, int64_t w, int c,
                                           F (&values)[V]) const {
    const int o = first + c, lanes = min_of(V, channels - c);
    const Strides &s = y_stride, &rs = residual_stride;
    T* to = y + (n * s.n + h * s.h + w * s.w + o * s.c);
    const T* other = residual ? residual + (n * rs.n + h * rs.h + w * rs.w + o * rs.c) : nullptr;
    Pack<T, V> more{};
    if (other && vectors) more = tile::load<V>(other);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (k >= lanes) continue;
      if (scale) values[k] = values[k] * scale[o + k] + shift[o + k];
      if (bias) values[k] += tile::widen(bias[o + k]);
      if (other) values[k] += tile::widen(vectors ? more.lanes[k] : other[k * rs.c]);
      values[k] = tile::widen(tile::narrow<T>(activate(activation, values[k])));
    }
    if (vectors) return tile::store_narrow(to, values);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (k < lanes) to[k * s.c] = tile::narrow<T>(values[k]);
    }
  }
};

template <class T>
Pixels<T> pixels_of(const Conv2d& p) {
  const int64_t channels = p.O / p.groups;
  const bool vectors = in_vectors<T>(p.y, p.y_stride, channels) &&
                       in_vectors<T>(p.residual, p.residual_stride, channels);
  return {static_cast<T*>(p.y),
          static_cast<const T*>(p.bias),
          static_cast<const T*>(p.residual),
          static_cast<const Compute<T>*>(p.scale),
          static_cast<const Compute<T>*>(p.shift),
          p.y_stride,
          p.residual_stride,
          p.activation,
          vectors,
          static_cast<int>(channels)};
}

template <class T>
Pixels<T> pixels_of(const Conv2dBackwardInput& p) {
  const int64_t channels = p.C / p.groups;
  return {static_cast<T*>(p.grad_x),
          static_cast<const T*>(p.bias),
          nullptr,
          nullptr,
          nullptr,
          p.grad_x_stride,
          {},
          Activation::none,
          in_vectors<T>(p.grad_x, p.grad_x_stride, channels),
          static_cast<int>(channels)};
}

// The rows of a product that makes all outputs, pixel by pixel.
template <class T>
struct OutputPixels {
  Pixels<T> pixels;
  int M;
  tile::Divider<int> plane, row;

  __device__ __forceinline__ int rows() const { return M; }
  __device__ __forceinline__ int most_rows() const { return M; }
  __device__ __forceinline__ int phases() const { return 1; }
  __device__ __forceinline__ void choose(int group, int) { pixels.choose_group(group); }
  template <int V>
  __device__ __forceinline__ void store(int m, int o, Compute<T> (&sums)[V]) const {
    if (o >= pixels.channels) return;
    const int n = m / plane, within = m - n * plane, h = within / row;
    pixels.store_at(n, h, within - h * row, o, sums);
  }
};

}  // namespace torchext
