// The largest element and the sum of exponentials along an axis: of one row of adjacent elements,
// or of as many columns as a vector has lanes.
#pragma once

#include "math.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class F>
struct Exponentials {
  F largest, sum;  // sum of exp(x - largest)
};

// keep(k, exp(x[k] - largest), Whole or Part) sees each vector of exponentials.
template <class T, class Keep>
INLINE Exponentials<Compute<T>> exponentials_of_row(const T* x, int64_t size, Keep keep) {
  using F = Compute<T>;
  const F largest = fold_row<T>(
      size, -__builtin_inf(), [&](int64_t k, auto part) { return load_row(x + k, part); },
      [](auto a, auto b) { return larger(a, b); });
  const F sum = sum_over_row<T>(size, [&](int64_t k, auto part) {
    const RowVector<T> e = probability(load_row(x + k, part) - largest);
    keep(k, e, part);
    return e;
  });
  return {largest, sum};
}

template <class T, class Part>
INLINE Exponentials<RowVector<T>> exponentials_of_columns(const T* x, int64_t size, int64_t step,
                                                          Part part) {
  RowVector<T> largest = load_row(x, part), sum{};
  for (int64_t k = 1; k < size; ++k) largest = larger(largest, load_row(x + k * step, part));
  for (int64_t k = 0; k < size; ++k) sum += probability(load_row(x + k * step, part) - largest);
  return {largest, sum};
}

// One number through a function of vectors.
template <class F>
INLINE F log_of(F x) {
  return vlog(Vec<F, kLanes<F>>{} + x)[0];
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
