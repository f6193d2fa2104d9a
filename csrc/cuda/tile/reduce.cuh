// Sums and maxima over the lanes of a warp and over a block, always in the same order; every thread
// gets the result.
#pragma once

#include "smem.cuh"

namespace torchext::tile {

constexpr int kWarp = 32;

struct Sum {
  template <class F>
  __device__ F operator()(F a, F b) const {
    return a + b;
  }
};
struct Maximum {
  template <class F>
  __device__ F operator()(F a, F b) const {
    return b > a ? b : a;
  }
};

// Over kLanes neighbouring lanes, a power of two.
template <class Combine, int kLanes, class F>
__device__ __forceinline__ F over_lanes(F value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = Combine()(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

template <class Combine, class F>
__device__ __forceinline__ F over_warp(F value) {
  return over_lanes<Combine, kWarp>(value);
}

// Over a block of kThreads, by way of kThreads / 32 numbers of shared memory.
template <class Combine, int kThreads, class F>
__device__ __forceinline__ F over_block(F value, F* of_warps) {
  constexpr int kWarps = kThreads / kWarp;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = over_warp<Combine>(value);
  __syncthreads();  // whoever still reads an earlier result
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  value = of_warps[0];
#pragma unroll
  for (int k = 1; k < kWarps; ++k) value = Combine()(value, of_warps[k]);
  return value;
}

// Of groups of `lines` lines of `lanes` threads each (powers of two), what each thread of a column
// found, pairwise; a group's first line has the results. What is written next is never what is
// still read. Takes [V][kThreads] of shared memory.
template <int kThreads, int V, class Found>
__device__ __forceinline__ void over_lines(Found (&found)[V], int lanes, int lines) {
  Found* shared = shared_array<Found>();
  const int thread = threadIdx.x, line = thread / lanes % lines;
  for (int half = lines / 2; half > 0; half /= 2) {
    if (line >= half && line < 2 * half) {
#pragma unroll
      for (int k = 0; k < V; ++k) shared[k * kThreads + thread] = found[k];
    }
    __syncthreads();
    if (line < half) {
#pragma unroll
      for (int k = 0; k < V; ++k) found[k] += shared[k * kThreads + thread + half * lanes];
    }
  }
}
// One group is the whole block.
template <int kThreads, int V, class Found>
__device__ __forceinline__ void over_lines(Found (&found)[V], int lanes) {
  over_lines<kThreads>(found, lanes, kThreads / lanes);
}

}  // namespace torchext::tile
