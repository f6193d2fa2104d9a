// Plain data shared by host code, CPU kernels of every ISA and CUDA kernels. No std, no torch: an
// inline function with a body from here must never be shared between object files of two ISAs, so
// functions are PLAIN (static, always inlined).
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define PLAIN static __host__ __device__ __forceinline__
#else
#define PLAIN static inline __attribute__((always_inline))
#endif

// Compilers that know the CPU instruction for pairs of bf16 by its name in code for other CPUs.
#if defined(__x86_64__) && !defined(__clang__) && __GNUC__ >= 11
#define TORCHEXT_KNOWS_PAIRS
#endif

namespace torchext {

enum class DType : int32_t { f32, f64, bf16, f16 };

// The type that kernels compute in.
PLAIN DType compute_dtype(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// Where a launch goes: on CUDA a stream, which may be given memory until its work is done. The CPU
// looks at none of it.
struct Queue {
  void* stream = nullptr;
  void* context = nullptr;
  void* (*allocate)(void* context, int64_t bytes) = nullptr;
};

// Strides in elements of an NCHW-indexed tensor, whatever its layout in memory.
struct Strides {
  int64_t n, c, h, w;
};

// [begin, end), in the integer that indices are computed in: CUDA kernels prefer 32 bits.
template <class I>
struct RangeOf {
  I begin, end;
};
using Range = RangeOf<int64_t>;

template <class A, class B>
PLAIN auto min_of(A a, B b) {
  return a < b ? a : b;
}
template <class A, class B>
PLAIN auto max_of(A a, B b) {
  return a > b ? a : b;
}

// For a >= 0, b > 0, of any size: nothing overflows.
template <class I, class D>
PLAIN I ceil_div(I a, D b) {
  const I quotient = a / b;
  return quotient * b == a ? quotient : quotient + 1;
}

}  // namespace torchext
