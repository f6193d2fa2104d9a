// dropout (op/dropout.h): a thread calls Philox for V counters, whose four words each serve V
// elements of each quarter of a run of 256.
#include "../op/dropout.h"
#include "philox.cuh"
#include "pointwise.cuh"

namespace torchext {
namespace {

constexpr int kRun = 256, kQuarter = kRun / 4;

template <class T>
struct Dropped {
  int64_t count;
  uint64_t threshold, seed;
  Compute<T> scale;
  const T* x;
  T* y;
};

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) dropout_kernel(const Dropped<T> p) {
  const int64_t counter = pointwise_begin<V>();
  const int64_t run = counter / kQuarter * kRun, within = counter % kQuarter;
  if (run + within >= p.count) return;
  Words words[V];
#pragma unroll
  for (int k = 0; k < V; ++k) words[k] = philox(counter + k, p.seed);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t at = run + j * kQuarter + within, left = p.count - at;
    if (left <= 0) return;
    auto pack = tile::load_part<V>(p.x + at, left);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const bool kept = words[k].word[j] >= p.threshold;
      pack.lanes[k] = tile::narrow<T>(kept ? tile::widen(pack.lanes[k]) * p.scale : 0);
    }
    tile::store_part(p.y + at, pack, left);
  }
}

template <class T, int V>
void run(const Dropout& p, const Queue& queue) {
  const Dropped<T> d{p.count,
                     p.threshold,
                     p.seed,
                     static_cast<Compute<T>>(p.scale),
                     static_cast<const T*>(p.x),
                     static_cast<T*>(p.y)};
  const int64_t counters = (p.count + kRun - 1) / kRun * kQuarter;
  launch_pointwise("dropout", dropout_kernel<T, V>, d, counters, V, queue);
}

}  // namespace

void launch(const Dropout& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    all_aligned<T>(p.x, p.y) ? run<T, kVector<T>>(p, queue) : run<T, 1>(p, queue);
  });
}

}  // namespace torchext
