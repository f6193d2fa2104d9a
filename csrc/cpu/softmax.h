// The largest element and the sum of exponentials along an axis: of one row of adjacent elements,
// or of as many columns as a vector has lanes.
#pragma once

#include "math.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class V>
INLINE V larger(V a, V b) {
  return b > a ? b : a;
}

template <class F>
struct Exponentials {
  F largest, sum;  // sum of exp(x - largest)
};

template <class T>
INLINE Exponentials<Compute<T>> exponentials_of_row(const T* x, int64_t size) {
  using F = Compute<T>;
  constexpr F kLeast = -__builtin_inf();
  RowVector<T> most = RowVector<T>{} + kLeast;
  for_each_vector<T>(size, [&](int64_t k, auto part) {
    most = larger(most, masked(load_row(x + k, part), part, kLeast));
  });
  F largest = most[0];
  for (int k = 1; k < kLanes<T>; ++k) largest = most[k] > largest ? most[k] : largest;
  const F sum = sum_over_row<T>(
      size, [&](int64_t k, auto part) { return vexp(load_row(x + k, part) - largest); });
  return {largest, sum};
}

template <class T, class Part>
INLINE Exponentials<RowVector<T>> exponentials_of_columns(const T* x, int64_t size, int64_t step,
                                                          Part part) {
  RowVector<T> largest = load_row(x, part), sum{};
  for (int64_t k = 1; k < size; ++k) largest = larger(largest, load_row(x + k * step, part));
  for (int64_t k = 0; k < size; ++k) sum += vexp(load_row(x + k * step, part) - largest);
  return {largest, sum};
}

// One number through a function of vectors.
template <class F>
INLINE F log_of(F x) {
  return vlog(Vec<F, kLanes<F>>{} + x)[0];
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
