// The stored types, and the type that kernels compute in: float, for f64 double.
#pragma once

#include "../../common/plain.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace torchext::tile {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }

template <class T>
__device__ __forceinline__ T narrow(Compute<T> value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ double narrow<double>(double value) {
  return value;
}

#ifdef __CUDACC__
__device__ __forceinline__ float widen(bf16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float widen(f16 value) {
  return __half2float(__ushort_as_half(value.bits));
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
__device__ __forceinline__ f16 narrow<f16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}
#else  // a host compiler: the same conversions, bit by bit
inline float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float widen(bf16 value) { return float_of(uint32_t{value.bits} << 16); }
inline float widen(f16 value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16, rest = value.bits & 0x7fffu;
  if (rest < 0x0400u) return float_of(sign | bits_of(static_cast<float>(rest) * 0x1p-24f));
  const uint32_t infinite = rest >= 0x7c00u ? 0x70000000u : 0x38000000u;
  return float_of(sign | ((rest << 13) + infinite));
}
template <>
inline bf16 narrow<bf16>(float value) {
  const uint32_t bits = bits_of(value);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <>
inline f16 narrow<f16>(float value) {
  const auto sign = static_cast<uint16_t>(bits_of(value) >> 16 & 0x8000u);
  const uint32_t rest = bits_of(value) & 0x7fffffffu;
  if (rest > 0x7f800000u) return {0x7fff};
  if (rest >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 2^16
  if (rest < 0x38800000u) {  // subnormal: adding 0.5 rounds to multiples of 2^-24
    const uint32_t rounded = bits_of(float_of(rest) + 0.5f) - 0x3f000000u;
    return {static_cast<uint16_t>(sign | rounded)};
  }
  const uint32_t rounded = (rest + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  return {static_cast<uint16_t>(sign | (rounded - 0x1c000u))};
}
#endif

}  // namespace torchext::tile
