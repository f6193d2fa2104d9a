// Matrix products of operands that are gathered as they are read: y[m][n] = sum over k of a[m][k] *
// b[n][k], by blocks of kM x kN results, steps of kK products and three tiles of each operand in
// shared memory: one is multiplied while copies fill the others.
//
// An operand says where 16 bytes of it are: `place(x)` is what stays along k, and `at(place, k)`
// the address (null: zeros), x or k being the first of the elements that lie side by side. An Out
// takes the results, V neighbours of n at a time. z counts groups, phases and parts of a long sum.
#pragma once

#include "../op/conv2d.h"
#include "moments.cuh"
#include "pointwise.cuh"
#include "tile/matrix_tile.cuh"
#include "tile/queue.cuh"
#include "tile/reduce.cuh"

namespace torchext {

constexpr int kStages = 3;

// A thread's share of an operand's tile.
template <class Core, class Operand, int kX>
struct Loader {
  using T = typename Core::T;
  using Tile = tile::MatrixTile<T, Operand::kOrder, kX, Core::kK>;
  static constexpr int kCopies = Tile::kRows * Tile::kChunks / Core::kThreads;
  static constexpr int kRowStep = Core::kThreads / Tile::kChunks;  // from copy to copy
  static_assert(kCopies * Core::kThreads == Tile::kRows * Tile::kChunks, "whole copies");

  const Operand& operand;
  int row, chunk;
  typename Operand::Place places[Tile::kXRows ? kCopies : 1];

  __device__ __forceinline__ Loader(const Operand& operand, int first)
      : operand(operand), row(threadIdx.x / Tile::kChunks), chunk(threadIdx.x % Tile::kChunks) {
    if constexpr (Tile::kXRows) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) places[i] = operand.place(first + row + i * kRowStep);
    } else {
      places[0] = operand.place(first + chunk * Tile::V);
    }
  }
  // The k's from `k` on, of which those from `end` on are zeros.
  __device__ __forceinline__ void copy(T* to, int k, int end) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int r = row + i * kRowStep;
      const int own = k + (Tile::kXRows ? chunk * Tile::V : r);
      const T* from = own < end ? operand.at(places[Tile::kXRows ? i : 0], own) : nullptr;
      tile::copy_async(to + Tile::at(r, chunk), from);
    }
  }
};

// A matrix whose rows follow each other, `rows` of them for each group: weights.
template <class T>
struct MatrixRows {
  static constexpr tile::Order kOrder = tile::Order::x_rows;
  const T* data;
  int64_t row;
  int rows;

  using Place = const T*;
  __device__ __forceinline__ void choose(int group, int) {
    data += static_cast<int64_t>(group) * rows * row;
  }
  __device__ __forceinline__ Place place(int x) const {
    return x < rows ? data + x * row : nullptr;
  }
  __device__ __forceinline__ const T* at(const Place& place, int k) const {
    return place ? place + k : nullptr;
  }
};

// How z is counted.
struct Parts {
  int groups, phases, splits, k_of_split;
};

// A block's sums leave by way of shared memory, which the block has done with but for its last
// multiplications.
template <class Core, class Out>
__device__ __forceinline__ void store_results(const Core& core, const Out& out, int m0, int n0) {
  using F = typename Core::F;
  constexpr int V = kVector<typename Core::T>, kVectors = Core::kN / V;
  F* band_rows = tile::shared_array<F>();
  // Of this thread's columns, if anybody asks.
  F* firsts = band_rows + Core::kBandRows * Core::kBandStride + threadIdx.x * V;
  RunningMoments<F, V> running{firsts};
  for (int band = 0; band < Core::kBands; ++band) {
    __syncthreads();
    core.put(band, band_rows);
    __syncthreads();
    for (int i = threadIdx.x; i < Core::kBandRows * kVectors; i += Core::kThreads) {
      // Neighbouring threads write neighbours.
      const int row = out.along_rows ? i % Core::kBandRows : i / kVectors;
      const int column = (out.along_rows ? i / Core::kBandRows : i % kVectors) * V;
      constexpr int kChunk = 16 / sizeof(F);
      F values[V];
#pragma unroll
      for (int c = 0; c < V; c += kChunk) {
        const auto chunk = tile::load<kChunk>(band_rows + Core::band_at(row, column + c));
#pragma unroll
        for (int k = 0; k < kChunk; ++k) values[c + k] = chunk.lanes[k];
      }
      const bool stored = out.store(m0 + Core::row_of(band, row), n0 + column, values);
      if (Out::kMoments && stored) running.add(values);
    }
  }
  if constexpr (Out::kMoments) {
    static_assert(Core::kThreads % kVectors == 0, "a thread's columns are the same in all rows");
    Moments<F> found[V];
#pragma unroll
    for (int k = 0; k < V; ++k) found[k] = running.of(k);
    __syncthreads();
    tile::over_lines<Core::kThreads>(found, kVectors);
    if (threadIdx.x < kVectors) out.count(n0 + static_cast<int>(threadIdx.x) * V, found);
  }
}

template <class Core, class A, class B, class Out>
__global__ void __launch_bounds__(Core::kThreads, Out::kMoments ? 2 : Core::kBlocks)
    product_kernel(A a, B b, Out out, const Parts parts) {
  using T = typename Core::T;
  using LoadA = Loader<Core, A, Core::kM>;
  using LoadB = Loader<Core, B, Core::kN>;
  constexpr int kStage = LoadA::Tile::kElements + LoadB::Tile::kElements;
  const int split = blockIdx.z % parts.splits, z = blockIdx.z / parts.splits;
  const int phase = z % parts.phases, group = z / parts.phases;
  a.choose(group, phase);
  b.choose(group, phase);
  out.choose(group, phase, split);
  const int m0 = blockIdx.x * Core::kM, n0 = blockIdx.y * Core::kN;
  if (m0 >= out.rows()) return;  // of this phase
  const int begin = split * parts.k_of_split;
  const int end = min_of(begin + parts.k_of_split, a.depth());

  T* shared = tile::shared_array<T>();
  const LoadA load_a(a, m0);
  const LoadB load_b(b, n0);
  const auto copy = [&](int k, int stage) {
    if (k < end) {
      load_a.copy(shared + stage * kStage, k, end);
      load_b.copy(shared + stage * kStage + LoadA::Tile::kElements, k, end);
    }
    tile::commit_copies();
  };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) copy(begin + stage * Core::kK, stage);
  Core core;
  int stage = 0;
  for (int k = begin; k < end; k += Core::kK) {
    tile::wait_for_copies<kStages - 2>();
    __syncthreads();  // this stage's copies are everybody's; the one before it was multiplied
    copy(k + (kStages - 1) * Core::kK, (stage + kStages - 1) % kStages);
    const T* tiles = shared + stage * kStage;
    core.template add<typename LoadA::Tile, typename LoadB::Tile>(tiles,
                                                                  tiles + LoadA::Tile::kElements);
    stage = (stage + 1) % kStages;
  }

  store_results(core, out, m0, n0);
}

// What a block needs of shared memory: for its results to leave, for moments of theirs too, and for
// a product.
template <class Core>
constexpr size_t kBandBytes = sizeof(typename Core::F) * Core::kBandRows * Core::kBandStride;
template <class Core, class F = typename Core::F>
constexpr size_t kMomentsBytes = [] {
  constexpr size_t numbers = size_t{kVector<typename Core::T>} * Core::kThreads;
  constexpr size_t firsts = kBandBytes<Core> + sizeof(F) * numbers;
  constexpr size_t sums = sizeof(Moments<F>) * numbers;
  return firsts > sums ? firsts : sums;
}();
template <class Core>
constexpr size_t kProductBytes = [] {
  constexpr size_t stages = sizeof(typename Core::T) * kStages * (Core::kM + Core::kN) * Core::kK;
  return stages > kBandBytes<Core> ? stages : kBandBytes<Core>;
}();

// Where a product's results go: to `final`, or, where the k's are split, to scratch memory first.
template <class Final, class F, bool kCounts = false>
struct Results {
  static constexpr bool kMoments = kCounts;
  Final final;
  int splits, columns;  // columns: rounded up to whole vectors
  F* sums;              // [group][phase][split][M][columns]; null: not split
  bool along_rows;
  int N = 0;  // of a group
  PartsOfMoments<F> moments{};
  int64_t at = 0;
  int first = 0;

  __device__ __forceinline__ int rows() const { return final.rows(); }
  __device__ __forceinline__ void choose(int group, int phase, int split) {
    final.choose(group, phase);
    const int64_t z = static_cast<int64_t>(group) * final.phases() + phase;
    at = (z * splits + split) * final.most_rows() * columns;
    first = group * N;
  }
  // Whether there is such a place.
  template <int V>
  __device__ __forceinline__ bool store(int m, int n, F (&values)[V]) const {
    if (m >= final.rows() || n >= columns) return false;
    if (!sums) {
      final.store(m, n, values);
      return true;
    }
    Pack<F, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) pack.lanes[k] = values[k];
    tile::store(sums + at + static_cast<int64_t>(m) * columns + n, pack);
    return true;
  }
  // What a block found of channels from n on.
  template <int V>
  __device__ __forceinline__ void count(int n, const Moments<F> (&found)[V]) const {
    moments.store(blockIdx.x, first + n, N - n, found);
  }
};

template <class Final, class F, int V>
__global__ void __launch_bounds__(kPointwiseThreads, 2) finish_kernel(Results<Final, F> r) {
  const int phases = r.final.phases(), group = blockIdx.y / phases, phase = blockIdx.y % phases;
  r.choose(group, phase, 0);
  const int vectors = r.columns / V;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPointwiseThreads + threadIdx.x;
  const int64_t rows = r.rows();
  if (index >= rows * vectors) return;
  const auto m = static_cast<int>(r.along_rows ? index % rows : index / vectors);
  const auto n = static_cast<int>(r.along_rows ? index / rows : index % vectors) * V;
  const F* from = r.sums + r.at + static_cast<int64_t>(m) * r.columns + n;
  const int64_t step = static_cast<int64_t>(r.final.most_rows()) * r.columns;
  Pack<F, V> sum = tile::load<V>(from);
  for (int split = 1; split < r.splits; ++split) {
    const auto more = tile::load<V>(from + split * step);
#pragma unroll
    for (int k = 0; k < V; ++k) sum.lanes[k] += more.lanes[k];
  }
  r.final.store(m, n, sum.lanes);
}

// The shape of a product, of which there are groups * phases.
struct ProductShape {
  int64_t M, N, K, groups, phases;
  bool tf32 = false;  // what floats may be rounded to
};

// Whether torch would: its switches for convolutions and for matrix products decide.
bool takes_tf32(const Conv2dShape& p);

inline void check_product(const char* op, const ProductShape& p) {
  constexpr int64_t kMost = INT32_MAX - 4096;  // tiles go beyond the ends
  if (p.M > kMost || p.N > kMost || p.K > kMost) {
    throw std::runtime_error(std::string(op) + ": CUDA: got a product of " + std::to_string(p.M) +
                             " x " + std::to_string(p.K) + " by " + std::to_string(p.N) +
                             ", expected sizes below 2^31");
  }
}

// Wanted: PartsOfMoments<F>*, or nothing.
template <class Core, class A, class B, class Final, class Wanted = std::nullptr_t>
void launch_product(const char* op, const ProductShape& p, const A& a, const B& b,
                    const Final& final, bool along_rows, const Queue& queue,
                    Wanted moments = nullptr) {
  using F = typename Core::F;
  constexpr int V = kVector<typename Core::T>;
  check_product(op, p);
  if (p.M == 0 || p.N == 0) return;
  const int64_t z = p.groups * p.phases;
  const int64_t blocks = ceil_div(p.M, Core::kM) * ceil_div(p.N, Core::kN) * z;
  // Few blocks of long sums are split, by shape alone: enough for a large chip, each long enough to
  // be worth the pass that adds the parts.
  constexpr int64_t kEnough = 128, kWorth = 8, kMostSplits = 64;
  const int64_t steps = ceil_div(p.K, Core::kK);
  const int64_t wanted =
      max_of(min_of(min_of(kEnough / max_of(blocks, int64_t{1}), steps / kWorth), kMostSplits),
             int64_t{1});
  const int64_t steps_of_split = max_of(ceil_div(steps, wanted), int64_t{1});
  const auto splits = static_cast<int>(max_of(ceil_div(steps, steps_of_split), int64_t{1}));
  const int64_t columns = ceil_div(p.N, V) * V;
  F* sums = splits > 1 ? tile::scratch<F>(queue, z * splits * p.M * columns) : nullptr;
  const Parts parts{static_cast<int>(p.groups), static_cast<int>(p.phases), splits,
                    static_cast<int>(steps_of_split * Core::kK)};
  dim3 grid = tile::blocks_for(op, p.M, Core::kM);
  grid.y = tile::blocks_for(op, p.N, Core::kN).x;
  grid.z = static_cast<unsigned>(z * splits);
  if (grid.y > 65535 || z * splits > 65535) {
    throw std::runtime_error(std::string(op) + ": CUDA: got a grid of " + std::to_string(grid.y) +
                             " x " + std::to_string(z * splits) + ", expected at most 65535");
  }
  const auto launch_to = [&](const auto& results, size_t bytes) {
    tile::launch_kernel(op, product_kernel<Core, A, B, std::decay_t<decltype(results)>>, grid,
                        Core::kThreads, bytes, queue, a, b, results, parts);
  };
  Results<Final, F> results{final, splits,     static_cast<int>(columns),
                            sums,  along_rows, static_cast<int>(p.N)};
  if constexpr (!std::is_null_pointer_v<Wanted> && Core::kTensor) {
    if (moments && splits == 1 && !along_rows) {
      *moments = parts_of_moments<F>(grid.x, p.groups * p.N, queue);
      const Results<Final, F, true> counted{
          final, 1, static_cast<int>(columns), nullptr, false, results.N, *moments};
      return launch_to(counted, max_of(kProductBytes<Core>, kMomentsBytes<Core>));
    }
  }
  launch_to(results, kProductBytes<Core>);
  if (splits == 1) return;
  dim3 finish = tile::blocks_for(op, p.M * (columns / V), kPointwiseThreads);
  finish.y = static_cast<unsigned>(z);
  tile::launch_kernel(op, finish_kernel<Final, F, V>, finish, kPointwiseThreads, 0, queue, results);
}

// choose(Core{}): of the type, and for tensor cores of a size that fits the results.
template <class T, class Choose>
void for_core(const ProductShape& p, const Choose& choose) {
  if constexpr (sizeof(T) > 2) {
    if (!p.tf32) return choose(tile::Cores<T>{});
  }
  if constexpr (sizeof(T) <= 4) {
    const int64_t large = ceil_div(p.M, 128) * ceil_div(p.N, 128) * p.groups * p.phases;
    if (p.N > 64 && large >= 128) return choose(tile::TensorCores<T, 128, 128, 2, 4>{});
    choose(tile::TensorCores<T, 64, 64, 2, 2>{});
  }
}

}  // namespace torchext
