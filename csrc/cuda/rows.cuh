// Rows of adjacent elements, each read by a team of threads: a warp, or for long rows a block. A
// thread's first kKept packs of a row stay in registers, so that a row is read once; what is longer
// is read again, from L2.
#pragma once

#include "pointwise.cuh"
#include "tile/reduce.cuh"

namespace torchext {

constexpr int kRowThreads = 256;  // a block

template <class T, int V, int kTeam>
struct Row {
  static constexpr int kKept = 4;
  static constexpr int64_t kStep = int64_t{kTeam} * V;

  const T* from;
  int64_t size, first;  // of this thread
  Pack<T, V> kept[kKept];

  __device__ __forceinline__ Row(const T* from, int64_t size)
      : from(from), size(size), first(static_cast<int64_t>(threadIdx.x % kTeam) * V) {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int64_t at = first + k * kStep;
      if (at < size) kept[k] = tile::load<V>(from + at);
    }
  }

  // function(values, where they begin) for each of the thread's packs.
  template <class Function>
  __device__ __forceinline__ void each(const Function& function) const {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int64_t at = first + k * kStep;
      if (at < size) function(kept[k], at);
    }
    for (int64_t at = first + kKept * kStep; at < size; at += kStep) {
      function(tile::load<V>(from + at), at);
    }
  }
  // The same of two rows side by side.
  template <class Function>
  __device__ __forceinline__ void each_with(const Row& other, const Function& function) const {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int64_t at = first + k * kStep;
      if (at < size) function(kept[k], other.kept[k], at);
    }
    for (int64_t at = first + kKept * kStep; at < size; at += kStep) {
      function(tile::load<V>(from + at), tile::load<V>(other.from + at), at);
    }
  }
};

// Over a team; in blocks, by way of kRowThreads / 32 numbers of shared memory.
template <class Combine, int kTeam, class F>
__device__ __forceinline__ F over_team(F value) {
  if constexpr (kTeam == tile::kWarp) {
    return tile::over_warp<Combine>(value);
  } else {
    return tile::over_block<Combine, kTeam>(value, tile::shared_array<F>());
  }
}

// This thread's row.
template <int kTeam>
__device__ __forceinline__ int64_t row_of_team() {
  return static_cast<int64_t>(blockIdx.x) * (kRowThreads / kTeam) + threadIdx.x / kTeam;
}

// Whether packs of V begin every row.
template <class T, class... Tensors>
bool rows_in_vectors(int64_t size, const Tensors*... tensors) {
  return size % kVector<T> == 0 && all_aligned<T>(tensors...);
}

// choose(vector length, team): as std::integral_constants.
template <class T, class Choose>
void for_rows(int64_t size, bool vectors, const Choose& choose) {
  constexpr int V = kVector<T>;
  using Warp = std::integral_constant<int, tile::kWarp>;
  using Block = std::integral_constant<int, kRowThreads>;
  using Vector = std::integral_constant<int, V>;
  using One = std::integral_constant<int, 1>;
  const bool short_row = size <= Row<T, 1, tile::kWarp>::kKept * tile::kWarp * (vectors ? V : 1);
  if (vectors) return short_row ? choose(Vector{}, Warp{}) : choose(Vector{}, Block{});
  short_row ? choose(One{}, Warp{}) : choose(One{}, Block{});
}

template <class T, class... Parameters, class... Arguments>
void launch_rows(const char* op, void (*kernel)(Parameters...), int64_t rows, int team,
                 const Queue& queue, const Arguments&... arguments) {
  const dim3 grid = tile::blocks_for(op, rows, kRowThreads / team);
  const size_t shared = kRowThreads / tile::kWarp * sizeof(Compute<T>);
  tile::launch_kernel(op, kernel, grid, kRowThreads, shared, queue, arguments...);
}

}  // namespace torchext
