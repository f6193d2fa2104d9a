// dropout (op/dropout.h): a thread calls Philox for V counters, whose four words each serve V
// elements of each quarter of a run of 256.
#include "../op/dropout.h"
#include "pointwise.cuh"

namespace torchext {
namespace {

struct Words {
  uint32_t word[4];
};

// Philox 4x32-10 (Salmon et al., 2011).
__device__ __forceinline__ Words philox(uint64_t counter, uint64_t seed) {
  Words w{{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}};
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(w.word[0], 0xD2511F53u), low0 = w.word[0] * 0xD2511F53u;
    const uint32_t high1 = __umulhi(w.word[2], 0xCD9E8D57u), low1 = w.word[2] * 0xCD9E8D57u;
    w = {{high1 ^ w.word[1] ^ key0, low1, high0 ^ w.word[3] ^ key1, low0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return w;
}

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
