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

namespace torchext {

enum class DType : int32_t { f32, f64, bf16, f16 };

// Strides in elements of an NCHW-indexed tensor, whatever its layout in memory.
struct Strides {
  int64_t n, c, h, w;
};

struct Range {
  int64_t begin, end;
};

PLAIN int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
PLAIN int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
PLAIN int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0, b > 0

}  // namespace torchext
