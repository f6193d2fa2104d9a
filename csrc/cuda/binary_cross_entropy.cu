// binary_cross_entropy and its gradient (op/binary_cross_entropy.h), element by element.
#include "../op/binary_cross_entropy.h"
#include "pointwise.cuh"
#include "tile/math.cuh"

namespace torchext {
namespace {

// log(1 + exp(-x))
template <class F>
__device__ __forceinline__ F softplus_of_minus(F x) {
  return tile::log1p_of(tile::exp_of(-tile::absolute(x))) - (x > 0 ? F(0) : x);
}

template <class F>
__device__ __forceinline__ F at_least(F x, F least) {
  return x < least ? least : x;  // NaN stays
}

template <class F>
__device__ __forceinline__ F loss_of(bool logits, F x, F t, F q) {
  if (logits) return (1 - t) * x + q * softplus_of_minus(x);
  return (t - 1) * at_least(tile::log_of(1 - x), F(-100)) - t * at_least(tile::log_of(x), F(-100));
}

template <class F>
__device__ __forceinline__ F slope_of(bool logits, F x, F t, F q) {
  if (logits) return 1 - t - q * tile::sigmoid(-x);
  return (x - t) / at_least((1 - x) * x, F(1e-12));
}

template <class T>
struct Loss {
  int64_t count;
  bool logits;
  const T *x, *target, *weight, *pos_weight, *grad_loss;
  T* y;
};

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) binary_cross_entropy_kernel(const Loss<T> p) {
  using F = Compute<T>;
  const int64_t at = pointwise_begin<V>(), left = p.count - at;
  if (left <= 0) return;
  const auto x = tile::load_part<V>(p.x + at, left), t = tile::load_part<V>(p.target + at, left);
  Pack<T, V> pos_weight{}, grad{}, weight{};
  if (p.pos_weight) pos_weight = tile::load_part<V>(p.pos_weight + at, left);
  if (p.grad_loss) grad = tile::load_part<V>(p.grad_loss + at, left);
  if (p.weight) weight = tile::load_part<V>(p.weight + at, left);
  Pack<T, V> y;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const F own = tile::widen(x.lanes[k]), target = tile::widen(t.lanes[k]);
    const F q = p.pos_weight ? (tile::widen(pos_weight.lanes[k]) - 1) * target + 1 : F(1);
    F value = p.grad_loss ? tile::widen(grad.lanes[k]) * slope_of(p.logits, own, target, q)
                          : loss_of(p.logits, own, target, q);
    if (p.weight) value *= tile::widen(weight.lanes[k]);
    y.lanes[k] = tile::narrow<T>(value);
  }
  tile::store_part(p.y + at, y, left);
}

template <class T, int V>
void run(const BinaryCrossEntropy& p, const Queue& queue) {
  const auto in = [](const void* tensor) { return static_cast<const T*>(tensor); };
  const Loss<T> loss{p.count,      p.logits,         in(p.x),         in(p.target),
                     in(p.weight), in(p.pos_weight), in(p.grad_loss), static_cast<T*>(p.y)};
  launch_pointwise("binary_cross_entropy", binary_cross_entropy_kernel<T, V>, loss, p.count, V,
                   queue);
}

}  // namespace

void launch(const BinaryCrossEntropy& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = all_aligned<T>(p.x, p.target, p.weight, p.pos_weight, p.grad_loss, p.y);
    aligned ? run<T, kVector<T>>(p, queue) : run<T, 1>(p, queue);
  });
}

}  // namespace torchext
