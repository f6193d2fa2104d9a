// Vec<T, N>: N lanes of T as a compiler vector, with loads and stores that convert to and from the
// type a kernel computes in (float; double for float64). One source serves every ISA: the compiler
// lowers the operators, and only what it lowers badly is written with intrinsics.
//
// Included once per ISA. Everything is static, inside the ISA's namespace and an anonymous one, so
// that the linker can never hand this ISA's code to a CPU that lacks it.
#pragma once

#include "../common/plain.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#pragma GCC diagnostic push  // g++ 12 warns of registers that its header leaves undefined
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#define TORCHEXT_ISA avx512
#define TORCHEXT_VECTOR_BYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define TORCHEXT_ISA avx2
#define TORCHEXT_VECTOR_BYTES 32
#else
#define TORCHEXT_ISA generic
#define TORCHEXT_VECTOR_BYTES 16
#endif

#define ALWAYS_INLINE __attribute__((always_inline))
#define INLINE static inline ALWAYS_INLINE

// The body of a kernel's run(): function<T> for the type that p.dtype says is stored.
#define FOR_EACH_DTYPE(function, p, ...)       \
  switch ((p).dtype) {                         \
    case DType::f32:                           \
      return function<float>(p, __VA_ARGS__);  \
    case DType::f64:                           \
      return function<double>(p, __VA_ARGS__); \
    case DType::bf16:                          \
      return function<bf16>(p, __VA_ARGS__);   \
    case DType::f16:                           \
      return function<f16>(p, __VA_ARGS__);    \
  }

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// Calls function(integral constant i) for i = 0 ... N - 1. An array is only kept in registers if
// its indices are constants before any loop is unrolled.
template <int N>
struct Constant {
  static constexpr int value = N;
};
template <int N, int I = 0, class Function>
INLINE void unrolled(Function function) {
  function(Constant<I>{});
  if constexpr (I + 1 < N) unrolled<N, I + 1>(function);
}

template <class T, int N>
struct VecOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};
template <class T, int N>
using Vec = typename VecOf<T, N>::type;

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// Two bf16 of adjacent k's, multiplied by two others and added up by one instruction.
struct Pair {
  bf16 first, second;
};

template <class T>
constexpr bool kIsBf16 = false;
template <>
constexpr bool kIsBf16<bf16> = true;

template <class T>
constexpr bool kIsPair = false;
template <>
constexpr bool kIsPair<Pair> = true;

// What a stored type is computed in, and the integer as wide: comparisons give vectors of it.
template <class T>
struct ComputeOf {
  using type = float;
  using integer = int32_t;
};
template <>
struct ComputeOf<double> {
  using type = double;
  using integer = int64_t;
};
template <class T>
using Compute = typename ComputeOf<T>::type;
template <class T>
using Integer = typename ComputeOf<T>::integer;

template <class T>
constexpr int kLanes = TORCHEXT_VECTOR_BYTES / sizeof(Compute<T>);

// Reinterprets or copies bits between equally large vectors and memory.
template <class To, class From>
INLINE To bit_copy(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class V>
INLINE V load_raw(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// Lanes of integers, narrowed or widened (without a sign) to and from the stored type. The compiler
// would take many of them apart one by one.
template <class I, int N, class Stored>
INLINE Vec<I, N> load_integers(const Stored* p) {
  using V = Vec<I, N>;
#ifdef __AVX2__
  constexpr int from = sizeof(Stored), to = sizeof(I);
  if constexpr (sizeof(V) == 32 && from <= 2 && from < to) {
    __m128i stored{};
    __builtin_memcpy(&stored, p, N * from);
    if constexpr (from == 2) return (V)_mm256_cvtepu16_epi32(stored);
    if constexpr (to == 2) return (V)_mm256_cvtepu8_epi16(stored);
    if constexpr (to == 4) return (V)_mm256_cvtepu8_epi32(stored);
    if constexpr (to == 8) return (V)_mm256_cvtepu8_epi64(stored);
  }
#ifdef __AVX512F__
  if constexpr (sizeof(V) == 64 && from <= 2 && from < to) {
    __m256i stored{};
    __builtin_memcpy(&stored, p, N * from);
    const __m128i low = _mm256_castsi256_si128(stored);
    if constexpr (from == 2) return (V)_mm512_cvtepu16_epi32(stored);
    if constexpr (to == 2) return (V)_mm512_cvtepu8_epi16(stored);
    if constexpr (to == 4) return (V)_mm512_cvtepu8_epi32(low);
    if constexpr (to == 8) return (V)_mm512_cvtepu8_epi64(low);
  }
#endif
#endif
  return __builtin_convertvector(load_raw<Vec<Stored, N>>(p), V);
}

template <int N, class Stored, class V>
INLINE void store_integers(Stored* p, V v) {
#ifdef __AVX512F__
  constexpr int from = sizeof(v[0]), to = sizeof(Stored);
  if constexpr (sizeof(V) == 64 && to <= 2 && to < from) {
    __m256i stored{};
    if constexpr (from == 2) stored = _mm512_cvtepi16_epi8((__m512i)v);
    if constexpr (from == 4 && to == 2) stored = _mm512_cvtepi32_epi16((__m512i)v);
    if constexpr (from == 4 && to == 1) {
      stored = _mm256_castsi128_si256(_mm512_cvtepi32_epi8((__m512i)v));
    }
    if constexpr (from == 8) stored = _mm256_castsi128_si256(_mm512_cvtepi64_epi8((__m512i)v));
    __builtin_memcpy(p, &stored, N * to);
    return;
  }
#endif
  const auto stored = __builtin_convertvector(v, Vec<Stored, N>);
  __builtin_memcpy(p, &stored, sizeof stored);
}

// f16 <-> float by exponent arithmetic, for CPUs (and lane counts) without an instruction for it.
template <int N>
INLINE Vec<float, N> widen_f16(Vec<uint16_t, N> half) {
  using U = Vec<uint32_t, N>;
  using F = Vec<float, N>;
  const U word = __builtin_convertvector(half, U) << 16;
  const U sign = word & 0x80000000u, twice = word + word;
  const F normal = bit_copy<F>((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const F subnormal = bit_copy<F>((twice >> 17) | (126u << 23)) - 0.5f;
  return bit_copy<F>(sign | (twice < (1u << 27) ? bit_copy<U>(subnormal) : bit_copy<U>(normal)));
}

template <int N>
INLINE Vec<uint16_t, N> narrow_f16(Vec<float, N> value) {
  using U = Vec<uint32_t, N>;
  using F = Vec<float, N>;
  const U word = bit_copy<U>(value), sign = word & 0x80000000u, twice = word + word;
  // Scaling up and down rounds to 11 bits' worth of headroom: overflow becomes infinity.
  F magnitude = bit_copy<F>(word & 0x7fffffffu) * 0x1.0p+112f * 0x1.0p-110f;
  U bias = twice & 0xff000000u;
  bias = bias < 0x71000000u ? U{} + 0x71000000u : bias;
  magnitude = bit_copy<F>((bias >> 1) + 0x07800000u) + magnitude;
  const U bits = bit_copy<U>(magnitude);
  const U finite = ((bits >> 13) & 0x7c00u) + (bits & 0x0fffu);
  const U result = (sign >> 16) | (twice > 0xff000000u ? U{} + 0x7e00u : finite);
  return __builtin_convertvector(result, Vec<uint16_t, N>);
}

template <int N>
INLINE Vec<float, N> load(const float* p) {
  return load_raw<Vec<float, N>>(p);
}
template <int N>
INLINE Vec<double, N> load(const double* p) {
  return load_raw<Vec<double, N>>(p);
}
template <int N>
INLINE Vec<float, N> load(const bf16* p) {
  return bit_copy<Vec<float, N>>(load_integers<uint32_t, N>(&p->bits) << 16);
}
template <int N>
INLINE Vec<float, N> load(const f16* p) {
#ifdef __F16C__
  if constexpr (N == 8) return (Vec<float, N>)_mm256_cvtph_ps(load_raw<__m128i>(p));
#ifdef __AVX512F__
  if constexpr (N == 16) return (Vec<float, N>)_mm512_cvtph_ps(load_raw<__m256i>(p));
#endif
#endif
  return widen_f16<N>(load_raw<Vec<uint16_t, N>>(p));
}

template <int N>
INLINE void store(float* p, Vec<float, N> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <int N>
INLINE void store(double* p, Vec<double, N> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
// float to bf16, in the lower half of each word.
template <int N>
INLINE Vec<uint32_t, N> round_bf16(Vec<float, N> v) {
  using U = Vec<uint32_t, N>;
  const U word = bit_copy<U>(v);
  const U rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const U nan = (word >> 16) | 0x40u;  // quiet, never rounded to infinity
  return (word & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}
template <int N>
INLINE void store(bf16* p, Vec<float, N> v) {
  store_integers<N>(&p->bits, round_bf16<N>(v));
}
template <int N>
INLINE void store(f16* p, Vec<float, N> v) {
#ifdef __F16C__
  if constexpr (N == 8) {
    const __m128i narrow = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(p, &narrow, sizeof narrow);
    return;
  }
#ifdef __AVX512F__
  if constexpr (N == 16) {
    const __m256i narrow = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(p, &narrow, sizeof narrow);
    return;
  }
#endif
#endif
  const auto narrow = narrow_f16<N>(v);
  __builtin_memcpy(p, &narrow, sizeof narrow);
}

template <int... K>
struct Lanes {};
template <int N, int... K>
struct FirstLanes : FirstLanes<N - 1, N - 1, K...> {};
template <int... K>
struct FirstLanes<0, K...> {
  using type = Lanes<K...>;
};

// Every other lane: 2k of `low` for the first half, 2k + 1 of `high` for the second.
template <int N, class V, int... K>
INLINE V every_other(V low, V high, Lanes<K...>) {
  return __builtin_shufflevector(low, high, (K < N / 2 ? 2 * K : 2 * K + 1)...);
}

// N lanes `Step` elements apart, 1 or 2. Step 2 reads its upper half one element early, so that
// nothing beyond the last lane is touched.
template <int N, int Step, class T>
INLINE Vec<Compute<T>, N> load_lanes(const T* p) {
  if constexpr (Step == 2 && N > 1) {
    return every_other<N>(load<N>(p), load<N>(p + N - 1), typename FirstLanes<N>::type{});
  } else {
    return load<N>(p);
  }
}

// A block: four vectors of consecutive elements, in whichever order of lanes loads and stores best;
// only a store puts the order back. For bf16 that is the even and the odd elements of each vector's
// worth of bytes: a shift and a mask instead of shuffles. The integers that go with a block, one
// byte each in memory, lie in the same order.
constexpr int kBlockVectors = 4;
template <class T>
constexpr int kBlockLanes = kBlockVectors * kLanes<T>;
template <class T>
using Block = Vec<Compute<T>, kLanes<T>>[kBlockVectors];
template <class T>
using IntegerBlock = Vec<Integer<T>, kLanes<T>>[kBlockVectors];

template <class T>
INLINE void load_block(const T* p, Block<T>& v) {
  constexpr int N = kLanes<T>;
  for (int u = 0; u < kBlockVectors; ++u) v[u] = load<N>(p + u * N);
}
INLINE void load_block(const bf16* p, Block<bf16>& v) {
  constexpr int N = kLanes<bf16>;
  for (int u = 0; u < kBlockVectors; u += 2) {
    const auto pairs = load_raw<Vec<uint32_t, N>>(p + u * N);
    v[u] = bit_copy<Vec<float, N>>(pairs << 16);
    v[u + 1] = bit_copy<Vec<float, N>>(pairs & 0xffff0000u);
  }
}

template <class T>
INLINE void load_bytes(const uint8_t* p, IntegerBlock<T>& v) {
  constexpr int N = kLanes<T>;
  if constexpr (kIsBf16<T>) {
    for (int u = 0; u < kBlockVectors; u += 2) {
      const auto pairs = bit_copy<Vec<int32_t, N>>(load_integers<uint16_t, 2 * N>(p + u * N));
      v[u] = pairs & 0xffff;
      v[u + 1] = pairs >> 16;
    }
  } else {
    for (int u = 0; u < kBlockVectors; ++u) v[u] = load_integers<Integer<T>, N>(p + u * N);
  }
}

template <class T>
INLINE void store_block(T* p, const Block<T>& v) {
  constexpr int N = kLanes<T>;
  for (int u = 0; u < kBlockVectors; ++u) store<N>(p + u * N, v[u]);
}
INLINE void store_block(bf16* p, const Block<bf16>& v) {
  constexpr int N = kLanes<bf16>;
  for (int u = 0; u < kBlockVectors; u += 2) {
    const auto pairs = round_bf16<N>(v[u]) | round_bf16<N>(v[u + 1]) << 16;
    __builtin_memcpy(p + u * N, &pairs, sizeof pairs);
  }
}

// Stores a whole vector; past the caches if asked to: then p must be aligned, and fence() follow.
template <class V>
INLINE void store_raw(void* p, const V& v, bool stream) {
#ifdef __AVX2__
  if (stream) {
    if constexpr (sizeof v == 32) return _mm256_stream_si256((__m256i*)p, (__m256i)v);
#ifdef __AVX512F__
    if constexpr (sizeof v == 64) return _mm512_stream_si512((__m512i*)p, (__m512i)v);
#endif
  }
#endif
  (void)stream;
  __builtin_memcpy(p, &v, sizeof v);
}
INLINE void fence() {
#ifdef __AVX2__
  _mm_sfence();
#endif
}

// Stores a block of values that need no rounding, as a maximum of loaded ones. f16 never streams.
template <class T>
INLINE void store_block_exact(T* p, const Block<T>& v, bool stream) {
  constexpr int N = kLanes<T>;
  if constexpr (sizeof(T) == 2) return store_block(p, v);
  for (int u = 0; u < kBlockVectors; ++u) store_raw(p + u * N, v[u], stream);
}
INLINE void store_block_exact(bf16* p, const Block<bf16>& v, bool stream) {
  constexpr int N = kLanes<bf16>;
  using U = Vec<uint32_t, N>;
  for (int u = 0; u < kBlockVectors; u += 2) {
    const U pairs = (bit_copy<U>(v[u]) >> 16) | bit_copy<U>(v[u + 1]);
    store_raw(p + u * N, pairs, stream);
  }
}

template <class T>
INLINE void store_bytes(uint8_t* p, const IntegerBlock<T>& v) {
  constexpr int N = kLanes<T>;
  if constexpr (kIsBf16<T>) {
    for (int u = 0; u < kBlockVectors; u += 2) {
      const auto words = bit_copy<Vec<uint16_t, 2 * N>>(v[u] | v[u + 1] << 16);
      store_integers<2 * N>(p + u * N, words);
    }
  } else {
    for (int u = 0; u < kBlockVectors; ++u) store_integers<N>(p + u * N, v[u]);
  }
}

// v[0] ... v[N - 1] as the rows of an N x N matrix, turned: pairs of rows swap their off-diagonal
// blocks of 1, 2, 4 ... lanes.
template <int Half, int N, class V, int... K>
INLINE void swap_blocks(V& a, V& b, Lanes<K...>) {
  const V upper = __builtin_shufflevector(a, b, ((K & Half) == 0 ? K : N + K - Half)...);
  b = __builtin_shufflevector(a, b, ((K & Half) == 0 ? K + Half : N + K)...);
  a = upper;
}
template <int N, class V, int Half = 1>
INLINE void transpose(V (&v)[N]) {
  for (int i = 0; i < N; ++i) {
    if ((i & Half) == 0) swap_blocks<Half, N>(v[i], v[i + Half], typename FirstLanes<N>::type{});
  }
  if constexpr (2 * Half < N) transpose<N, V, 2 * Half>(v);
}

template <int N, class T>
INLINE void narrow_from(const float* from, T* to, int64_t k, int64_t count) {
  for (; k + N <= count; k += N) store<N>(to + k, load<N>(from + k));
  if constexpr (N > 1) narrow_from<N / 2>(from, to, k, count);
}

// Rounds a plane summed in float to its stored type.
template <class T>
INLINE void narrow_plane(const float* from, T* to, int64_t count) {
  narrow_from<kLanes<T>>(from, to, 0, count);
}

// max(a, v) as torch's loop defines it: NaN wins, and of equal values (-0 and 0 too) `a` stays.
template <class V>
INLINE V max_keep_first(V a, V v) {
#ifdef __AVX512F__
  if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 4) {
    const __m512 x = (__m512)a, y = (__m512)v;  // vmaxps gives its second operand on a tie or NaN
    return (V)_mm512_mask_max_ps(y, _mm512_cmp_ps_mask(y, y, _CMP_ORD_Q), y, x);
  }
#endif
#ifdef __AVX2__
  if constexpr (sizeof(V) == 32 && sizeof(a[0]) == 4) {
    const __m256 x = (__m256)a, y = (__m256)v;
    return (V)_mm256_blendv_ps(_mm256_max_ps(y, x), y, _mm256_cmp_ps(y, y, _CMP_UNORD_Q));
  }
#endif
  return ((v > a) | (v != v)) ? v : a;
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
