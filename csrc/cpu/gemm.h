// The register tile that every matrix-like kernel is made of: R rows by two vectors of columns, one
// where there are no more or four where there are; sum[i][j] += a[i][k] * b[k][j], summed over k in
// order.
//
// Operands are numbers of the type computed in or, where a CPU multiplies them, pairs of bf16, two
// k's in one. `a` is read in place, one broadcast element at a time, with any distance between rows
// and between k's; `b` by whole vectors, so its columns must be adjacent: packed panels, or a
// matrix whose rows are.
#pragma once

#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

constexpr int kTileVectors = 2;
template <class F>
constexpr int kTileColumns = kTileVectors * kLanes<F>;
// As many rows as the registers hold sums for, with room for b and a broadcast.
constexpr int kTileRows = TORCHEXT_VECTOR_BYTES == 64 ? 14 : 6;

// A tile of twice the columns, in two panels, has as many; 16 registers are too few for it.
constexpr int kWideRows = TORCHEXT_VECTOR_BYTES == 64 ? 6 : 0;

template <class F>
using TileVector = Vec<F, kLanes<F>>;
template <class F, int R, int V = kTileVectors>
using Tile = TileVector<F>[R][V];

template <class F>
INLINE auto load_factors(const F* p) {
  return load<kLanes<F>>(p);
}
template <class F, class Vector>
INLINE void add_product(Vector& sum, const F* x, const Vector& factors) {
  sum += *x * factors;
}

#if defined(__AVX512F__) && defined(TORCHEXT_KNOWS_PAIRS)
INLINE Vec<int32_t, 16> load_factors(const Pair* p) { return load_raw<Vec<int32_t, 16>>(p); }
// By its name: the compiler knows it for CPUs only that have it, and this code is chosen by
// TORCHEXT_ISA.
INLINE void add_product(Vec<float, 16>& sum, const Pair* x, const Vec<int32_t, 16>& factors) {
  Vec<float, 16> result = sum;  // an array whose elements are named here would stay in memory
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(result) : "v"(factors), "m"(*x));
  sum = result;
}
#endif

template <class F, int R, int V = kTileVectors>
INLINE void multiply(const F* a, int64_t a_row, int64_t a_step, const F* b, int64_t b_step,
                     int64_t count, Tile<Compute<F>, R, V>& sum,
                     int64_t b_panel = kTileColumns<F>) {
  constexpr int N = kLanes<F>;
  const F* every_third[(R + 2) / 3];  // three rows share a pointer: i * a_row needs no register
  unrolled<(R + 2) / 3>([&](auto i)
                            ALWAYS_INLINE { every_third[i.value] = a + 3 * i.value * a_row; });
  for (int64_t k = 0; k < count; ++k) {
    decltype(load_factors(b)) row[V];
    unrolled<V>([&](auto j) ALWAYS_INLINE {
      row[j.value] =
          load_factors(b + (j.value / kTileVectors * b_panel + j.value % kTileVectors * N));
    });
    unrolled<R>([&](auto i) ALWAYS_INLINE {
      const F* x = every_third[i.value / 3] + i.value % 3 * a_row;
      unrolled<V>([&](auto j)
                      ALWAYS_INLINE { add_product(sum[i.value][j.value], x, row[j.value]); });
    });
    unrolled<(R + 2) / 3>([&](auto i) ALWAYS_INLINE { every_third[i.value] += a_step; });
    b += b_step;
  }
}

// Calls function(integral constant R) for a number of rows known at run time, 1 ... kTileRows.
template <int R = kTileRows, class Function>
INLINE void with_rows(int64_t rows, Function function) {
  if constexpr (R == 1) {
    function(Constant<1>{});
  } else {
    if (rows == R) return function(Constant<R>{});
    with_rows<R - 1>(rows, function);
  }
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
