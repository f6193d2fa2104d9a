// Functions of float and double under one name.
#pragma once

#include <math.h>

#include "../../common/plain.h"

namespace torchext::tile {

#define TORCHEXT_FUNCTION(name, single, twice)                         \
  __device__ __forceinline__ float name(float x) { return single(x); } \
  __device__ __forceinline__ double name(double x) { return twice(x); }
TORCHEXT_FUNCTION(exp_of, expf, exp)
TORCHEXT_FUNCTION(expm1_of, expm1f, expm1)
TORCHEXT_FUNCTION(log_of, logf, log)
TORCHEXT_FUNCTION(log1p_of, log1pf, log1p)
TORCHEXT_FUNCTION(erf_of, erff, erf)
TORCHEXT_FUNCTION(tanh_of, tanhf, tanh)
TORCHEXT_FUNCTION(rsqrt_of, rsqrtf, rsqrt)
TORCHEXT_FUNCTION(absolute, fabsf, fabs)
#undef TORCHEXT_FUNCTION

__device__ __forceinline__ float power(float x, float exponent) { return powf(x, exponent); }
__device__ __forceinline__ double power(double x, double exponent) { return pow(x, exponent); }

// 2^x to 22 bits.
__device__ __forceinline__ float fast_exp2(float x) {
#if TORCHEXT_EMULATED
  return exp2f(x);
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#endif
}

template <class F>
__device__ __forceinline__ F sigmoid(F x) {
  return 1 / (1 + exp_of(-x));
}

}  // namespace torchext::tile
