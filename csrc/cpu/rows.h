// Rows of elements, one vector after another: all of them whole but the last.
#pragma once

#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// How much of a vector lies in its row.
struct Whole {};
struct Part {
  int64_t lanes;
};

template <class T>
using RowVector = Vec<Compute<T>, kLanes<T>>;

template <class T>
INLINE RowVector<T> load_row(const T* p, Whole) {
  return load<kLanes<T>>(p);
}
template <class T>
INLINE RowVector<T> load_row(const T* p, Part part) {  // the other lanes are 0
  T lanes[kLanes<T>] = {};
#ifdef __AVX512F__
  if constexpr (sizeof(T) == 2) {
    const __m256i v = _mm256_maskz_loadu_epi16((1u << part.lanes) - 1, p);
    __builtin_memcpy(lanes, &v, sizeof v);
  } else {
    const __m512i v = sizeof(T) == 4 ? _mm512_maskz_loadu_epi32((1u << part.lanes) - 1, p)
                                     : _mm512_maskz_loadu_epi64((1u << part.lanes) - 1, p);
    __builtin_memcpy(lanes, &v, sizeof v);
  }
#else
  for (int64_t k = 0; k < part.lanes; ++k) lanes[k] = p[k];
#endif
  return load<kLanes<T>>(lanes);
}

template <class T>
INLINE void store_row(T* p, RowVector<T> v, Whole) {
  store<kLanes<T>>(p, v);
}
template <class T>
INLINE void store_row(T* p, RowVector<T> v, Part part) {
  T lanes[kLanes<T>];
  store<kLanes<T>>(lanes, v);
#ifdef __AVX512F__
  const uint32_t mask = (1u << part.lanes) - 1;
  if constexpr (sizeof(T) == 2) return _mm256_mask_storeu_epi16(p, mask, bit_copy<__m256i>(lanes));
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_epi32(p, mask, bit_copy<__m512i>(lanes));
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_epi64(p, mask, bit_copy<__m512i>(lanes));
#else
  for (int64_t k = 0; k < part.lanes; ++k) p[k] = lanes[k];
#endif
}

// The vector, its lanes beyond the row made `other`.
template <class V>
INLINE V masked(V v, Whole, double = 0) {
  return v;
}
template <class V, int... K>
INLINE V masked(V v, Part part, double other, Lanes<K...>) {
  using I = decltype(v < v);
  return I{K...} < static_cast<decltype(I{}[0] + 0)>(part.lanes)
             ? v
             : V{} + static_cast<decltype(v[0] + v[0])>(other);
}
template <class V>
INLINE V masked(V v, Part part, double other = 0) {
  return masked(v, part, other, typename FirstLanes<sizeof(V) / sizeof(v[0])>::type{});
}

// The lanes as one number, by halves: one after another, each would wait for the last.
template <int From, class V, int... K>
INLINE auto lanes_from(V v, Lanes<K...>) {
  return __builtin_shufflevector(v, v, (From + K)...);
}
template <class V, class Function>
INLINE auto reduce(V v, Function function) {
  constexpr int kHalf = sizeof(V) / sizeof(v[0]) / 2;
  using Half = typename FirstLanes<kHalf>::type;
  const auto half = function(lanes_from<0>(v, Half{}), lanes_from<kHalf>(v, Half{}));
  if constexpr (kHalf == 1) {
    return half[0];
  } else {
    return reduce(half, function);
  }
}
template <class V>
INLINE auto sum_of_lanes(V v) {
  return reduce(v, [](auto a, auto b) { return a + b; });
}

// combine() of function(k, Whole or Part) over a row: of vectors, or several together as a V, whose
// lanes beyond the row change nothing, as `neutral` doesn't.
template <class T, class V, class Function, class Combine>
INLINE V fold_vectors(int64_t count, V neutral, Function function, Combine combine) {
  constexpr int N = kLanes<T>;
  V so_far[4] = {neutral, neutral, neutral, neutral};  // which need not wait for each other
  int64_t k = 0;
  for (; k + 4 * N <= count; k += 4 * N) {
    for (int u = 0; u < 4; ++u) so_far[u] = combine(so_far[u], function(k + u * N, Whole{}));
  }
  for (; k + N <= count; k += N) so_far[0] = combine(so_far[0], function(k, Whole{}));
  if (k < count) so_far[1] = combine(so_far[1], function(k, Part{count - k}));
  return combine(combine(so_far[0], so_far[1]), combine(so_far[2], so_far[3]));
}

// The same of function(k, Whole or Part), a vector each, down to a number.
template <class T, class Function, class Combine>
INLINE Compute<T> fold_row(int64_t count, Compute<T> neutral, Function function, Combine combine) {
  const auto inside = [&](int64_t k, auto part) {
    return masked(function(k, part), part, neutral);
  };
  return reduce(fold_vectors<T>(count, RowVector<T>{} + neutral, inside, combine), combine);
}

template <class T, class Function>
INLINE Compute<T> sum_over_row(int64_t count, Function function) {
  return fold_row<T>(count, 0, function, [](auto a, auto b) { return a + b; });
}

// function(k, Whole or Part) for each vector of a row of `count` elements; it starts at element k.
template <class T, class Function>
INLINE void for_each_vector(int64_t count, Function function) {
  int64_t k = 0;
  for (; k + kLanes<T> <= count; k += kLanes<T>) function(k, Whole{});
  if (k < count) function(k, Part{count - k});
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
