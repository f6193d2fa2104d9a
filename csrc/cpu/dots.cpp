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
// between times y stays in L1.
template <int M, class F>
static void combine(const Combinations& p, int64_t n, int64_t count) {
  constexpr int64_t kStreams = 8;
  F* y = static_cast<F*>(p.y) + n;
  for (int64_t k = 0; k < p.K || k == 0; k += kStreams) {
    const int64_t streams = min_of(kStreams, p.K - k);
    const F* x = static_cast<const F*>(p.x) + k;
    const F* w = static_cast<const F*>(p.w) + (k * p.w_row + n);
    for_each_vector<F>(count, [&](int64_t i, auto part) {
      RowVector<F> sum[M] = {};
      if (k > 0 || p.adds) {
        for (int m = 0; m < M; ++m) sum[m] = load_row(y + (m * p.y_row + i), part);
      }
      for (int64_t s = 0; s < streams; ++s) {
        const RowVector<F> row = load_row(w + (s * p.w_row + i), part);
        for (int m = 0; m < M; ++m) sum[m] += x[m * p.x_row + s] * row;
      }
      for (int m = 0; m < M; ++m) store_row(y + (m * p.y_row + i), sum[m], part);
    });
  }
}

template <class F>
static void combine_columns(const Combinations& p, int64_t begin, int64_t end) {
  with_rows<kFewRows>(p.M, [&](auto rows) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t n = piece * kCombinedColumns;
      combine<decltype(rows)::value, F>(p, n, min_of(kCombinedColumns, p.N - n));
    }
  });
}

}  // namespace

void run(const Dots& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(multiply, p, begin, end) }

void run(const Combinations& p, int64_t begin, int64_t end) {
  p.dtype == DType::f64 ? combine_columns<double>(p, begin, end)
                        : combine_columns<float>(p, begin, end);
}

}  // namespace torchext::cpu::TORCHEXT_ISA
