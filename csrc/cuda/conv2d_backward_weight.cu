// The gradients of conv2d's weight and bias (op/conv2d.h): sums over all pixels of gradients times
// the inputs that each tap reads, [O][taps * channels], as a product whose k's are pixels. Few
// results and long sums: the pixels are split among blocks, by shape alone.
#include "../op/conv2d.h"
#include "bias_gradient.cuh"
#include "depthwise.cuh"
#include "lay_out.cuh"
#include "product.cuh"

namespace torchext {
namespace {

using tile::Order;

template <class T>
struct Gradients {
  static constexpr Order kOrder = Order::k_rows;
  Laid<T> grad;
  int K;  // pixels
  tile::Divider<int> plane, row;

  using Place = int;  // the first channel
  __device__ __forceinline__ void choose(int group, int) { grad.data += group * grad.channels; }
  __device__ __forceinline__ int depth() const { return K; }
  __device__ __forceinline__ Place place(int o) const { return o; }
  __device__ __forceinline__ const T* at(const Place& o, int k) const {
    if (o >= grad.channels) return nullptr;
    const int n = k / plane, within = k - n * plane, h = within / row, w = within - h * row;
    return grad.data + (n * grad.n + h * grad.h + w * grad.w + o);
  }
};

template <class T>
struct Taps {
  static constexpr Order kOrder = Order::k_rows;
  Laid<T> x;
  int columns;  // taps times channels
  int H, W, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  tile::Divider<int> channels, kernel_w, plane, row;

  struct Place {
    int h, w, c;  // of the tap, from the window's corner; c < 0: beyond the last tap
  };
  __device__ __forceinline__ void choose(int group, int) { x.data += group * x.channels; }
  __device__ __forceinline__ Place place(int column) const {
    if (column >= columns) return {0, 0, -1};
    const int tap = column / channels, i = tap / kernel_w, j = tap - i * kernel_w;
    return {i * dilation_h - padding_h, j * dilation_w - padding_w, column - tap * channels};
  }
  __device__ __forceinline__ const T* at(const Place& place, int k) const {
    const int n = k / plane, within = k - n * plane, oh = within / row, ow = within - oh * row;
    const int h = oh * stride_h + place.h, w = ow * stride_w + place.w;
    const bool inside = static_cast<unsigned>(h) < static_cast<unsigned>(H) &&
                        static_cast<unsigned>(w) < static_cast<unsigned>(W) && place.c >= 0;
    return inside ? x.data + (n * x.n + h * x.h + w * x.w + place.c) : nullptr;
  }
};

template <class T>
struct Weight {
  T* weight;
  Strides stride;  // (o, c, h, w)
  int O, C, columns;
  tile::Divider<int> channels, kernel_w;

  __device__ __forceinline__ int rows() const { return O; }
  __device__ __forceinline__ int most_rows() const { return O; }
  __device__ __forceinline__ int phases() const { return 1; }
  __device__ __forceinline__ void choose(int group, int) {
    weight += static_cast<int64_t>(group) * O * stride.n;
  }
  template <int V>
  __device__ __forceinline__ void store(int o, int column, const Compute<T> (&sums)[V]) const {
    if (column >= columns) return;
    const int tap = column / channels, i = tap / kernel_w, c = column - tap * channels;
    T* to = weight + (o * stride.n + i * stride.h + (tap - i * kernel_w) * stride.w + c * stride.c);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (c + k < C) to[k * stride.c] = tile::narrow<T>(sums[k]);
    }
  }
};

template <class T>
void backward(const Conv2dBackwardWeight& p, const Queue& queue) {
  const char* op = "conv2d_backward_weight";
  const int64_t C = p.C / p.groups, O = p.O / p.groups, taps = p.h.kernel * p.w.kernel;
  const int64_t pixels = p.N * p.OH * p.OW;
  const Laid<T> grad = laid_out<T>(op, {p.grad_y, p.grad_y_stride, p.N, O, p.OH, p.OW, p.groups},
                                   {p.activation, p.y, p.y_stride}, queue);
  const Laid<T> x = laid_out<T>(op, {p.x, p.x_stride, p.N, C, p.H, p.W, p.groups}, {}, queue);
  const ProductShape shape{O, taps * x.channels, pixels, p.groups, 1, takes_tf32(p)};
  check_product(op, shape);
  if (p.grad_bias) sum_bias(op, p, grad, queue);
  const tile::Divider<int> plane(p.OH * p.OW), row(p.OW), channels(x.channels);
  const tile::Divider<int> kernel_w(p.w.kernel);
  const auto columns = static_cast<int>(shape.N);
  const Gradients<T> a{grad, static_cast<int>(pixels), plane, row};
  const Taps<T> b{x,
                  columns,
                  static_cast<int>(p.H),
                  static_cast<int>(p.W),
                  static_cast<int>(p.h.stride),
                  static_cast<int>(p.w.stride),
                  static_cast<int>(p.h.padding),
                  static_cast<int>(p.w.padding),
                  static_cast<int>(p.h.dilation),
                  static_cast<int>(p.w.dilation),
                  channels,
                  kernel_w,
                  plane,
                  row};
  const Weight<T> out{static_cast<T*>(p.grad_weight),
                      p.w_stride,
                      static_cast<int>(O),
                      static_cast<int>(C),
                      columns,
                      channels,
                      kernel_w};
  for_core<T>(shape, [&](auto core) {
    launch_product<decltype(core)>(op, shape, a, b, out, p.w_stride.c != 1, queue);
  });
}

}  // namespace

void launch(const Conv2dBackwardWeight& p, const Queue& queue) {
  if (is_depthwise(p)) return launch_depthwise(p, queue);
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

}  // namespace torchext
