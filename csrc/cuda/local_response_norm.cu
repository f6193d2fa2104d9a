// local_response_norm (op/local_response_norm.h): a thread makes one element, and reads the
// channels around it, which its neighbours' reads have brought to the first cache.
#include "../op/local_response_norm.h"
#include "pointwise.cuh"
#include "tile/divide.cuh"
#include "tile/math.cuh"

namespace torchext {
namespace {

// Where an element lies among the channels of its column.
struct Channels {
  tile::Divider<int64_t> C, inner;
  int64_t count, before, after;

  template <class P>
  Channels(const P& p, int64_t before, int64_t after)
      : C(p.C), inner(p.inner), count(p.outer * p.C * p.inner), before(before), after(after) {}

  // function(element) for the channels around `at` that there are, in ascending order.
  template <class Function>
  __device__ __forceinline__ void around(int64_t at, const Function& function) const {
    const int64_t column = at / inner, c = column - column / C * C;
    const int64_t begin = max_of(-before, -c), end = min_of(after, C - 1 - c);
    for (int64_t j = begin; j <= end; ++j) function(at + j * inner);
  }
};

template <class T>
struct Forward {
  Channels channels;
  Compute<T> alpha, beta, k;
  const T* x;
  T* y;
  Compute<T>* scale;
};

template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    local_response_norm_kernel(const Forward<T> p) {
  using F = Compute<T>;
  const int64_t at = pointwise_begin<1>();
  if (at >= p.channels.count) return;
  F squares = 0;
  p.channels.around(at, [&](int64_t i) {
    const F x = tile::widen(p.x[i]);
    squares += x * x;
  });
  const F scale = squares * p.alpha + p.k;
  p.y[at] = tile::narrow<T>(tile::widen(p.x[at]) * tile::power(scale, -p.beta));
  if (p.scale) p.scale[at] = scale;
}

template <class T>
struct Backward {
  Channels channels;
  Compute<T> beta, factor;
  const T *grad_y, *x, *y;
  const Compute<T>* scale;
  T* grad_x;
};

// grad_x = grad_y * scale^-beta - 2 alpha beta / size * x * sum of grad_y * y / scale, over the
// results that x is in the windows of.
template <class T>
__global__ void __launch_bounds__(kPointwiseThreads)
    local_response_norm_backward_kernel(const Backward<T> p) {
  using F = Compute<T>;
  const int64_t at = pointwise_begin<1>();
  if (at >= p.channels.count) return;
  F sum = 0;
  p.channels.around(
      at, [&](int64_t i) { sum += tile::widen(p.grad_y[i]) * tile::widen(p.y[i]) / p.scale[i]; });
  const F own = tile::widen(p.grad_y[at]) * tile::power(p.scale[at], -p.beta);
  p.grad_x[at] = tile::narrow<T>(own - tile::widen(p.x[at]) * sum * p.factor);
}

}  // namespace

void launch(const LocalResponseNorm& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using F = Compute<T>;
    const Forward<T> f{{p, p.size / 2, (p.size - 1) / 2},
                       static_cast<F>(p.alpha),
                       static_cast<F>(p.beta),
                       static_cast<F>(p.k),
                       static_cast<const T*>(p.x),
                       static_cast<T*>(p.y),
                       static_cast<F*>(p.scale)};
    launch_pointwise("local_response_norm", local_response_norm_kernel<T>, f, f.channels.count, 1,
                     queue);
  });
}

void launch(const LocalResponseNormBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using F = Compute<T>;
    const Backward<T> b{{p, (p.size - 1) / 2, p.size / 2},    static_cast<F>(p.beta),
                        static_cast<F>(2 * p.alpha * p.beta), static_cast<const T*>(p.grad_y),
                        static_cast<const T*>(p.x),           static_cast<const T*>(p.y),
                        static_cast<const F*>(p.scale),       static_cast<T*>(p.grad_x)};
    launch_pointwise("local_response_norm_backward", local_response_norm_backward_kernel<T>, b,
                     b.channels.count, 1, queue);
  });
}

}  // namespace torchext
