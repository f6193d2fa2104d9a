// activation: y = f(x) and grad_x = grad_y * f'(x), element by element: as fast as memory, but for
// f64, whose functions take longer than its bytes.
#include "../op/activation.h"
#include "activation.cuh"
#include "pointwise.cuh"

namespace torchext {
namespace {

template <class T>
struct Forward {
  Activation kind;
  int64_t count;
  const T* x;
  T* y;
};

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) activation_kernel(const Forward<T> p) {
  const int64_t at = pointwise_begin<V>(), left = p.count - at;
  if (left <= 0) return;
  auto pack = tile::load_part<V>(p.x + at, left);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    pack.lanes[k] = tile::narrow<T>(activate(p.kind, tile::widen(pack.lanes[k])));
  }
  tile::store_part(p.y + at, pack, left);
}

template <class T>
struct Backward {
  Activation kind;
  int64_t count;
  const T *grad_y, *x;
  T* grad_x;
};

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads)
    activation_backward_kernel(const Backward<T> p) {
  const int64_t at = pointwise_begin<V>(), left = p.count - at;
  if (left <= 0) return;
  const auto grad_y = tile::load_part<V>(p.grad_y + at, left);
  auto pack = tile::load_part<V>(p.x + at, left);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const Compute<T> slope = derivative(p.kind, tile::widen(pack.lanes[k]));
    pack.lanes[k] = tile::narrow<T>(times_derivative(p.kind, tile::widen(grad_y.lanes[k]), slope));
  }
  tile::store_part(p.grad_x + at, pack, left);
}

template <class T, int V>
void forward(const Activate& p, const Queue& queue) {
  const Forward<T> f{p.kind, p.count, static_cast<const T*>(p.x), static_cast<T*>(p.y)};
  launch_pointwise("activation", activation_kernel<T, V>, f, p.count, V, queue);
}

template <class T, int V>
void backward(const ActivateBackward& p, const Queue& queue) {
  const Backward<T> b{p.kind, p.count, static_cast<const T*>(p.grad_y), static_cast<const T*>(p.x),
                      static_cast<T*>(p.grad_x)};
  launch_pointwise("activation_backward", activation_backward_kernel<T, V>, b, p.count, V, queue);
}

}  // namespace

void launch(const Activate& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    all_aligned<T>(p.x, p.y) ? forward<T, kVector<T>>(p, queue) : forward<T, 1>(p, queue);
  });
}

void launch(const ActivateBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    all_aligned<T>(p.grad_y, p.x, p.grad_x) ? backward<T, kVector<T>>(p, queue)
                                            : backward<T, 1>(p, queue);
  });
}

}  // namespace torchext
