// The register tile that every matrix-like kernel is made of: R rows by two vectors of columns, or
// one where there are no more columns; sum[i][j] += a[i][k] * b[k][j], summed over k in order.
//
// `a` is read in place, one broadcast element at a time, with any distance between rows and between
// k's; `b` by whole vectors, so its columns must be adjacent: packed panels, or a matrix whose rows
// are.
#pragma once

#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

constexpr int kTileVectors = 2;
template <class F>
constexpr int kTileColumns = kTileVectors * kLanes<F>;
// As many rows as the registers hold sums for, with room for b and a broadcast.
constexpr int kTileRows = TORCHEXT_VECTOR_BYTES == 64 ? 14 : 6;

template <class F>
using TileVector = Vec<F, kLanes<F>>;
template <class F, int R, int V = kTileVectors>
using Tile = TileVector<F>[R][V];

template <class F, int R, int V = kTileVectors>
INLINE void multiply(const F* a, int64_t a_row, int64_t a_step, const F* b, int64_t b_step,
                     int64_t count, Tile<F, R, V>& sum) {
  constexpr int N = kLanes<F>;
  const F* every_third[(R + 2) / 3];  // three rows share a pointer: i * a_row needs no register
  for (int i = 0; i < R; i += 3) every_third[i / 3] = a + i * a_row;
  for (int64_t k = 0; k < count; ++k) {
    TileVector<F> row[V];
    for (int j = 0; j < V; ++j) row[j] = load<N>(b + j * N);
#pragma GCC unroll 14
    for (int i = 0; i < R; ++i) {
      const F x = every_third[i / 3][i % 3 * a_row];
      for (int j = 0; j < V; ++j) sum[i][j] += x * row[j];
    }
#pragma GCC unroll 5
    for (int i = 0; i < (R + 2) / 3; ++i) every_third[i] += a_step;
    b += b_step;
  }
}

// Calls function(integral constant R) for a number of rows known at run time, 1 ... kTileRows.
template <int R>
struct Rows {
  static constexpr int value = R;
};
template <int R = kTileRows, class Function>
INLINE void with_rows(int64_t rows, Function function) {
  if constexpr (R == 1) {
    function(Rows<1>{});
  } else {
    if (rows == R) return function(Rows<R>{});
    with_rows<R - 1>(rows, function);
  }
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
