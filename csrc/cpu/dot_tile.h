// Products of a few rows with rows of weights that are read where they are, lanes along k.
#pragma once

#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// Rows as a dot tile reads them: elements are adjacent.
template <class T>
struct DotRows {
  const T* first;
  int64_t row;
};

template <int M, int R, class T, class Function>
INLINE void dot_tile(DotRows<T> x, DotRows<T> w, int64_t K, int64_t m, int64_t n,
                     Function function) {
  using F = Compute<T>;
  constexpr int N = kLanes<T>;
  const T *x_first = x.first + m * x.row, *w_first = w.first + n * w.row;
  Vec<F, N> sum[M][R] = {};
  int64_t k = 0;
  for (; k + N <= K; k += N) {
    Vec<F, N> rows[R];
    for (int r = 0; r < R; ++r) rows[r] = load<N>(w_first + r * w.row + k);
    for (int i = 0; i < M; ++i) {
      const auto v = load<N>(x_first + i * x.row + k);
      for (int r = 0; r < R; ++r) sum[i][r] += v * rows[r];
    }
  }
  for (int i = 0; i < M; ++i) {
    for (int r = 0; r < R; ++r) {
      F total = sum_of_lanes(sum[i][r]);
      for (int64_t rest = k; rest < K; ++rest) {
        total += load<1>(x_first + i * x.row + rest)[0] * load<1>(w_first + r * w.row + rest)[0];
      }
      function(m + i, n + r, total);
    }
  }
}

template <int R, class T, class Function>
INLINE void dot_columns(DotRows<T> x, int64_t M, DotRows<T> w, int64_t K, int64_t n,
                        Function function) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) dot_tile<4, R>(x, w, K, m, n, function);
  for (; m + 2 <= M; m += 2) dot_tile<2, R>(x, w, K, m, n, function);
  if (m < M) dot_tile<1, R>(x, w, K, m, n, function);
}

// Calls function(m, n, sum over k of x[m, k] * w[n, k]) for all M times N.
template <class T, class Function>
INLINE void for_each_dot(DotRows<T> x, int64_t M, DotRows<T> w, int64_t N, int64_t K,
                         Function function) {
  constexpr int R = 4;
  int64_t n = 0;
  for (; n + R <= N; n += R) dot_columns<R>(x, M, w, K, n, function);
  for (; n < N; ++n) dot_columns<1>(x, M, w, K, n, function);
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
