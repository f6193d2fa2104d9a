// Products of few rows, compiled once per ISA.
#include "dots.h"

#include "activation.h"
#include "dot_tile.h"
#include "gemm.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class T>
static void multiply(const Dots& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const int64_t first = begin * kDotColumns, last = min_of(p.N, end * kDotColumns);
  const DotRows<T> x{static_cast<const T*>(p.x), p.x_row};
  const DotRows<T> w{static_cast<const T*>(p.w) + first * p.w_row, p.w_row};
  for_each_dot(x, p.M, w, last - first, p.K, [&](int64_t m, int64_t column, F sum) {
    const int64_t n = first + column;
    Vec<F, 1> v{sum};
    if (p.bias != nullptr) v += load<1>(static_cast<const T*>(p.bias) + n);
    if (p.residual != nullptr) {
      v += load<1>(static_cast<const T*>(p.residual) + (m * p.residual_row + n));
    }
    store<1>(static_cast<T*>(p.y) + (m * p.y_row + n), activate(p.activation, v));
  });
}

// Rows of y as sums of rows of w, a few of those at a time: each is a stream from memory, and
// between times the sums stay in L1.
template <int M, class T>
static void combine(const Combinations& p, int64_t n, int64_t count) {
  using F = Compute<T>;
  constexpr int64_t kStreams = 8;
  F sums[M][kCombinedColumns];
  T* const y = static_cast<T*>(p.y) + n;
  const auto for_each_sum = [&](auto function) {
    for (int64_t m = 0; m < M; ++m) {
      for_each_vector<T>(
          count, [&](int64_t i, auto part) { function(y + (m * p.y_row + i), sums[m] + i, part); });
    }
  };
  for_each_sum([&](const T* y, F* sum, auto part) {
    store_row(sum, p.adds ? load_row(y, part) : RowVector<T>{}, part);
  });
  for (int64_t k = 0; k < p.K; k += kStreams) {
    const int64_t streams = min_of(kStreams, p.K - k);
    const F* x = static_cast<const F*>(p.x) + k;
    const T* w = static_cast<const T*>(p.w) + (k * p.w_row + n);
    for_each_vector<T>(count, [&](int64_t i, auto part) {
      RowVector<T> sum[M];
      for (int m = 0; m < M; ++m) sum[m] = load_row(sums[m] + i, part);
      for (int64_t s = 0; s < streams; ++s) {
        const RowVector<T> row = load_row(w + (s * p.w_row + i), part);
        for (int m = 0; m < M; ++m) sum[m] += x[m * p.x_row + s] * row;
      }
      for (int m = 0; m < M; ++m) store_row(sums[m] + i, sum[m], part);
    });
  }
  for_each_sum([&](T* y, const F* sum, auto part) { store_row(y, load_row(sum, part), part); });
}

template <class T>
static void combine_columns(const Combinations& p, int64_t begin, int64_t end) {
  with_rows<kFewRows>(p.M, [&](auto rows) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t n = piece * kCombinedColumns;
      combine<decltype(rows)::value, T>(p, n, min_of(kCombinedColumns, p.N - n));
    }
  });
}

}  // namespace

void run(const Dots& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(multiply, p, begin, end) }

void run(const Combinations& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(combine_columns, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
