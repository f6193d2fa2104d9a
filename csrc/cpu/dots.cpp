// Products of few rows, compiled once per ISA.
#include "dots.h"

#include "activation.h"
#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// The sum of a vector's lanes, halves first: the same order on every run.
template <int N, class F>
INLINE F sum_of_lanes(Vec<F, N> v) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    Vec<F, N / 2> low, high;
    __builtin_memcpy(&low, &v, sizeof low);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return sum_of_lanes<N / 2, F>(low + high);
  }
}

template <int M, int R, class T>
INLINE void dot_tile(const Dots& p, int64_t m, int64_t n) {
  using F = Compute<T>;
  constexpr int N = kLanes<T>;
  const T* x = static_cast<const T*>(p.x) + m * p.x_row;
  const T* w = static_cast<const T*>(p.w) + n * p.w_row;
  Vec<F, N> sum[M][R] = {};
  int64_t k = 0;
  for (; k + N <= p.K; k += N) {
    Vec<F, N> rows[R];
    for (int r = 0; r < R; ++r) rows[r] = load<N>(w + r * p.w_row + k);
    for (int i = 0; i < M; ++i) {
      const auto v = load<N>(x + i * p.x_row + k);
      for (int r = 0; r < R; ++r) sum[i][r] += v * rows[r];
    }
  }
  for (int i = 0; i < M; ++i) {
    for (int r = 0; r < R; ++r) {
      F total = sum_of_lanes<N, F>(sum[i][r]);
      for (int64_t rest = k; rest < p.K; ++rest) {
        total += load<1>(x + i * p.x_row + rest)[0] * load<1>(w + r * p.w_row + rest)[0];
      }
      Vec<F, 1> v{total};
      if (p.bias != nullptr) v += load<1>(static_cast<const T*>(p.bias) + n + r);
      if (p.residual != nullptr) {
        v += load<1>(static_cast<const T*>(p.residual) + ((m + i) * p.residual_row + n + r));
      }
      store<1>(static_cast<T*>(p.y) + ((m + i) * p.y_row + n + r), activate(p.activation, v));
    }
  }
}

template <int R, class T>
INLINE void dot_rows(const Dots& p, int64_t n) {
  int64_t m = 0;
  for (; m + 4 <= p.M; m += 4) dot_tile<4, R, T>(p, m, n);
  for (; m + 2 <= p.M; m += 2) dot_tile<2, R, T>(p, m, n);
  if (m < p.M) dot_tile<1, R, T>(p, m, n);
}

template <class T>
static void dot_columns(const Dots& p, int64_t begin, int64_t end) {
  constexpr int R = 4;
  const int64_t n_end = min_of(p.N, end * kDotColumns);
  int64_t n = begin * kDotColumns;
  for (; n + R <= n_end; n += R) dot_rows<R, T>(p, n);
  for (; n < n_end; ++n) dot_rows<1, T>(p, n);
}

}  // namespace

void run(const Dots& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(dot_columns, p, begin, end) }

}  // namespace torchext::cpu::TORCHEXT_ISA
