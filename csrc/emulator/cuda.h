// CUDA's own words, for kernel sources that g++ compiles: included before their first line.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <tuple>
#include <type_traits>

#include "emulator.h"

#define TORCHEXT_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define threadIdx (::torchext::emulator::thread_index())
#define blockIdx (::torchext::emulator::block_index())
#define blockDim (::torchext::emulator::block_size())
#define gridDim (::torchext::emulator::grid_size())

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};

#define EMULATED inline __attribute__((always_inline))

EMULATED void __syncthreads(unsigned line = __builtin_LINE()) {
  ::torchext::emulator::meet_block(line);
}
EMULATED void __syncwarp(unsigned mask = ~0u) { ::torchext::emulator::meet_warp(mask); }
EMULATED unsigned __ballot_sync(unsigned mask, bool vote) {
  return ::torchext::emulator::ballot(mask, vote);
}
EMULATED bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
EMULATED bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, !vote) == 0; }
EMULATED unsigned __activemask() { return ::torchext::emulator::active_lanes(); }
EMULATED void __threadfence() { ::torchext::emulator::fence(); }
EMULATED void __nanosleep(unsigned) { ::torchext::emulator::pause(); }

// Numbers of 8 bytes go in halves, as the hardware's do.
template <class T>
EMULATED T emulated_shuffle(::torchext::emulator::Shuffle kind, unsigned mask, T value,
                            int argument, int width) {
  static_assert(sizeof(T) % 4 == 0, "shuffles move whole words");
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof value);
  for (uint32_t& word : words) {
    word = ::torchext::emulator::shuffle(kind, mask, word, argument, width);
  }
  memcpy(&value, words, sizeof value);
  return value;
}
template <class T>
EMULATED T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return emulated_shuffle(::torchext::emulator::Shuffle::index, mask, value, lane, width);
}
template <class T>
EMULATED T __shfl_up_sync(unsigned mask, T value, int by, int width = 32) {
  return emulated_shuffle(::torchext::emulator::Shuffle::up, mask, value, by, width);
}
template <class T>
EMULATED T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
  return emulated_shuffle(::torchext::emulator::Shuffle::down, mask, value, by, width);
}
template <class T>
EMULATED T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  return emulated_shuffle(::torchext::emulator::Shuffle::exclusive_or, mask, value, bits, width);
}

template <class T>
EMULATED T atomicAdd(T* address, T value) {
  static_assert(std::is_integral_v<T>, "sums of floats in any order are not deterministic");
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <class T>
EMULATED T atomicExch(T* address, T value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

EMULATED uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
EMULATED float rsqrtf(float x) { return 1 / std::sqrt(x); }
EMULATED double rsqrt(double x) { return 1 / std::sqrt(x); }
