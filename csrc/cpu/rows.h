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
  for (int64_t k = 0; k < part.lanes; ++k) lanes[k] = p[k];
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
  for (int64_t k = 0; k < part.lanes; ++k) p[k] = lanes[k];
}

// The vector, its lanes beyond the row made `other`.
template <class V>
INLINE V masked(V v, Whole, double = 0) {
  return v;
}
template <class V>
INLINE V masked(V v, Part part, double other = 0) {
  for (int64_t k = part.lanes; k < int64_t(sizeof(V) / sizeof(v[0])); ++k) v[k] = other;
  return v;
}

template <class V>
INLINE auto sum_of_lanes(V v) {
  auto sum = v[0];
  for (int k = 1; k < int(sizeof(V) / sizeof(v[0])); ++k) sum += v[k];
  return sum;
}

// The sum over a row of function(k, Whole or Part), a vector each.
template <class T, class Function>
INLINE Compute<T> sum_over_row(int64_t count, Function function) {
  constexpr int N = kLanes<T>;
  RowVector<T> sum[4] = {};  // so that additions need not wait for each other
  int64_t k = 0;
  for (; k + 4 * N <= count; k += 4 * N) {
    for (int u = 0; u < 4; ++u) sum[u] += function(k + u * N, Whole{});
  }
  for (; k + N <= count; k += N) sum[0] += function(k, Whole{});
  if (k < count) sum[1] += masked(function(k, Part{count - k}), Part{count - k});
  return sum_of_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
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
