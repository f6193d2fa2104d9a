// conv2d and the gradient of its input (op/conv2d.h) as products of gathered pixels: [pixels][taps
// * channels] by the weight. The gradient's pixels come in phases, by their distance to the
// stride's grid: each phase has only those taps that reach it. 16-bit types use tensor cores, f32
// and f64 are exact. Channels that do not lie side by side are copied first (lay_out.cuh).
#include "../op/conv2d.h"
#include "conv2d.cuh"
#include "depthwise.cuh"
#include "lay_out.cuh"
#include "pixels.cuh"
#include "product.cuh"

namespace torchext {
namespace {

using tile::Order;

// ---- Forward

template <class T>
struct Patches {
  static constexpr Order kOrder = Order::x_rows;
  Laid<T> x;
  Axis h, w;
  int H, W, M, K;
  tile::Divider<int> plane, row, channels, columns;  // of outputs, outputs; of a tap, taps

  struct Place {
    const T* image;  // null: beyond the last pixel
    int h, w;        // of the first tap
  };
  __device__ __forceinline__ void choose(int group, int) { x.data += group * x.channels; }
  __device__ __forceinline__ int depth() const { return K; }
  __device__ __forceinline__ Place place(int m) const {
    if (m >= M) return {nullptr, 0, 0};
    const int n = m / plane, within = m - n * plane, oh = within / row, ow = within - oh * row;
    return {x.data + n * x.n, oh * h.stride - h.padding, ow * w.stride - w.padding};
  }
  __device__ __forceinline__ const T* at(const Place& place, int k) const {
    const int tap = k / channels, c = k - tap * channels;
    const int i = tap / columns, j = tap - i * columns;
    const int row = place.h + i * h.dilation, column = place.w + j * w.dilation;
    const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(H) &&
                        static_cast<unsigned>(column) < static_cast<unsigned>(W);
    return place.image && inside ? place.image + (row * x.h + column * x.w + c) : nullptr;
  }
};

// Patches side by side, as vision transformers begin: where a patch's pixels lie one after another
// they are one of more channels, of which none has to be rounded up.
template <class T>
Conv2d of_whole_patches(Conv2d p) {
  const bool dense = p.x_stride.c == 1 && p.x_stride.w == p.C && p.w_stride.c == 1 &&
                     p.w_stride.w == p.C && p.groups == 1;
  const bool patches = p.w.kernel == p.w.stride && p.w.padding == 0 && p.w.dilation == 1;
  if (!dense || !patches || p.C % kVector<T> == 0) return p;
  p.C *= p.w.kernel;
  p.x_stride.w = p.w_stride.w = p.C;
  p.W = p.OW;
  p.w = {1, 1, 0, 1};
  return p;
}

template <class T>
void forward(const Conv2d& conv, const Queue& queue, PartsOfMoments<float>* moments = nullptr) {
  const char* op = "conv2d";
  const Conv2d p = of_whole_patches<T>(conv);
  const int64_t C = p.C / p.groups, O = p.O / p.groups, taps = p.h.kernel * p.w.kernel;
  const Laid<T> x = laid_out<T>(op, {p.x, p.x_stride, p.N, C, p.H, p.W, p.groups}, {}, queue);
  const Laid<T> weight = laid_out_weight<T>(op, p, p.weight, p.w_stride, queue);
  const ProductShape shape{p.N * p.OH * p.OW, O, taps * x.channels, p.groups, 1, takes_tf32(p)};
  check_product(op, shape);
  const auto M = static_cast<int>(shape.M);
  const tile::Divider<int> plane(p.OH * p.OW), row(p.OW);
  const Patches<T> a{x,
                     Axis(p.h),
                     Axis(p.w),
                     static_cast<int>(p.H),
                     static_cast<int>(p.W),
                     M,
                     static_cast<int>(shape.K),
                     plane,
                     row,
                     tile::Divider<int>(x.channels),
                     tile::Divider<int>(p.w.kernel)};
  const MatrixRows<T> b{weight.data, weight.n, static_cast<int>(O)};
  const OutputPixels<T> out{pixels_of<T>(p), M, plane, row};
  for_core<T>(shape, [&](auto core) {
    launch_product<decltype(core)>(op, shape, a, b, out, p.y_stride.c != 1, queue, moments);
  });
}

// ---- The gradient of the input

// The taps that reach the inputs of one phase, first + k * step, along one axis; and the output
// that the first of them belongs to: that of an input at `at` is (at - offset) / stride.
struct Reach {
  int phase, first, step, count, output_step;

  __device__ __forceinline__ static Reach of(const Axis& axis, int phase) {
    Reach r{phase, 0, 1, 0, 0};
    while (r.first < axis.kernel &&
           (phase + axis.padding - r.first * axis.dilation) % axis.stride) {
      ++r.first;
    }
    while (r.step * axis.dilation % axis.stride) ++r.step;
    r.count = r.first < axis.kernel ? (axis.kernel - r.first - 1) / r.step + 1 : 0;
    r.output_step = r.step * axis.dilation / axis.stride;
    return r;
  }
};

// What both operands and the result know of a phase.
struct Phase {
  Axis h, w;
  int N, H, W, OH, OW;  // of the input's gradient and of the output's
  Reach of_h, of_w;
  int rows, columns;  // inputs of the phase

  __device__ __forceinline__ void choose(int phase) {
    const int down = phase / w.stride, right = phase - down * w.stride;
    of_h = Reach::of(h, down);
    of_w = Reach::of(w, right);
    rows = down < H ? (H - down - 1) / h.stride + 1 : 0;
    columns = right < W ? (W - right - 1) / w.stride + 1 : 0;
  }
  __host__ __device__ int count() const { return h.stride * w.stride; }
  // Inputs of the largest phase.
  __host__ __device__ int most_rows() const {
    return N * ((H - 1) / h.stride + 1) * ((W - 1) / w.stride + 1);
  }
};

template <class T>
struct Outputs {
  static constexpr Order kOrder = Order::x_rows;
  Phase p;
  Laid<T> grad;

  struct Place {
    const T* image;  // null: beyond the last pixel
    int h, w;        // of the output that the first tap belongs to
  };
  __device__ __forceinline__ void choose(int group, int phase) {
    grad.data += group * grad.channels;
    p.choose(phase);
  }
  __device__ __forceinline__ int depth() const {
    return p.of_h.count * p.of_w.count * grad.channels;
  }
  __device__ __forceinline__ Place place(int m) const {
    const int plane = p.rows * p.columns;
    if (m >= p.N * plane) return {nullptr, 0, 0};
    const int n = m / plane, within = m - n * plane, i = within / p.columns;
    const int at_h = i * p.h.stride + p.of_h.phase + p.h.padding;
    const int at_w = (within - i * p.columns) * p.w.stride + p.of_w.phase + p.w.padding;
    // Divisible, but negative where the tap lies behind the first output.
    return {grad.data + n * grad.n, (at_h - p.of_h.first * p.h.dilation) / p.h.stride,
            (at_w - p.of_w.first * p.w.dilation) / p.w.stride};
  }
  __device__ __forceinline__ const T* at(const Place& place, int k) const {
    const int tap = k / grad.channels, o = k - tap * grad.channels;
    const int i = tap / p.of_w.count, j = tap - i * p.of_w.count;
    const int row = place.h - i * p.of_h.output_step, column = place.w - j * p.of_w.output_step;
    const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(p.OH) &&
                        static_cast<unsigned>(column) < static_cast<unsigned>(p.OW);
    return place.image && inside ? place.image + (row * grad.h + column * grad.w + o) : nullptr;
  }
};

template <class T>
struct WeightColumns {
  static constexpr Order kOrder = Order::k_rows;
  Phase p;
  Laid<T> weight;
  int O, channels_of_grad;  // of a group

  using Place = int;  // the first channel
  __device__ __forceinline__ void choose(int group, int phase) {
    weight.data += static_cast<int64_t>(group) * O * weight.n;
    p.choose(phase);
  }
  __device__ __forceinline__ Place place(int c) const { return c; }
  __device__ __forceinline__ const T* at(const Place& c, int k) const {
    const int tap = k / channels_of_grad, o = k - tap * channels_of_grad;
    if (o >= O || c >= weight.channels) return nullptr;
    const int i = tap / p.of_w.count, j = tap - i * p.of_w.count;
    const int own = (p.of_h.first + i * p.of_h.step) * p.w.kernel + p.of_w.first + j * p.of_w.step;
    return weight.data + (o * weight.n + own * weight.channels + c);
  }
};

template <class T>
struct Inputs {
  Pixels<T> pixels;
  Phase p;

  __device__ __forceinline__ int rows() const { return p.N * p.rows * p.columns; }
  __device__ __forceinline__ int most_rows() const { return p.most_rows(); }
  __device__ __forceinline__ int phases() const { return p.count(); }
  __device__ __forceinline__ void choose(int group, int phase) {
    pixels.choose_group(group);
    p.choose(phase);
  }
  template <int V>
  __device__ __forceinline__ void store(int m, int c, Compute<T> (&sums)[V]) const {
    if (c >= pixels.channels) return;
    const int plane = p.rows * p.columns, n = m / plane, within = m - n * plane;
    const int i = within / p.columns, j = within - i * p.columns;
    pixels.store_at(n, i * p.h.stride + p.of_h.phase, j * p.w.stride + p.of_w.phase, c, sums);
  }
};

template <class T>
void backward(const Conv2dBackwardInput& p, const Queue& queue) {
  const char* op = "conv2d_backward_input";
  const int64_t C = p.C / p.groups, O = p.O / p.groups, taps = p.h.kernel * p.w.kernel;
  const Laid<T> grad = laid_out<T>(op, {p.grad_y, p.grad_y_stride, p.N, O, p.OH, p.OW, p.groups},
                                   {p.activation, p.y, p.y_stride}, queue);
  const Laid<T> weight = laid_out_weight<T>(op, p, p.weight, p.w_stride, queue);
  const Phase phase{Axis(p.h),
                    Axis(p.w),
                    static_cast<int>(p.N),
                    static_cast<int>(p.H),
                    static_cast<int>(p.W),
                    static_cast<int>(p.OH),
                    static_cast<int>(p.OW),
                    {},
                    {},
                    0,
                    0};
  check_product(op, {p.N * p.H * p.W, C, taps * grad.channels, p.groups, 1});
  const ProductShape shape{phase.most_rows(), C, taps * grad.channels, p.groups, phase.count(),
                           takes_tf32(p)};
  const Outputs<T> a{phase, grad};
  const WeightColumns<T> b{phase, weight, static_cast<int>(O), grad.channels};
  const Inputs<T> out{pixels_of<T>(p), phase};
  for_core<T>(shape, [&](auto core) {
    launch_product<decltype(core)>(op, shape, a, b, out, p.grad_x_stride.c != 1, queue);
  });
}

bool (*asked_for_tf32)(bool linear) = nullptr;

}  // namespace

// How torch's switches are read, which it shows to Python alone. Without it: never.
extern "C" __attribute__((visibility("default"))) void torchext_ask_for_tf32(bool (*ask)(bool)) {
  asked_for_tf32 = ask;
}

bool takes_tf32(const Conv2dShape& p) {
  return p.dtype == DType::f32 && (p.rounded || (asked_for_tf32 && asked_for_tf32(p.linear)));
}

void launch(const Conv2d& p, const Queue& queue) {
  if (is_depthwise(p)) return launch_depthwise(p, queue);
  if (has_few_channels(p)) return launch_few_channels(p, nullptr, queue);
  for_dtype(p.dtype, [&](auto zero) { forward<decltype(zero)>(p, queue); });
}

PartsOfMoments<float> launch_with_moments(const Conv2d& p, const Queue& queue) {
  PartsOfMoments<float> moments{};
  if (is_depthwise(p)) {
    launch_depthwise(p, queue);
  } else if (has_few_channels(p)) {
    launch_few_channels(p, &moments, queue);
  } else {
    for_dtype(p.dtype, [&](auto zero) { forward<decltype(zero)>(p, queue, &moments); });
  }
  return moments;
}

void launch(const Conv2dBackwardInput& p, const Queue& queue) {
  if (is_depthwise(p)) return launch_depthwise(p, queue);
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

}  // namespace torchext
