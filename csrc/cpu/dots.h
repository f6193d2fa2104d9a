// Products of few rows, limited by how fast the weights come from memory: they are read where they
// are, once, along their rows.
#pragma once

#include "../common/activation.h"
#include "pool2d.h"

namespace torchext::cpu {

// y[m, n] = act(bias[n] + residual[m, n] + sum over k of x[m, k] * w[n, k])
struct Dots {
  DType dtype;
  int64_t M, N, K;
  const void *x, *w, *bias, *residual;  // the last two may be null
  void* y;
  int64_t x_row, w_row, residual_row, y_row;  // elements of a row are adjacent
  Activation activation;
};

// y[m, n] = sum over k of x[m, k] * w[k, n], added to what y holds if `adds`.
struct Combinations {
  DType dtype;  // of w and y
  int64_t M, N, K;
  const void* x;  // F
  const void* w;
  void* y;
  int64_t x_row, w_row, y_row;  // elements of a row are adjacent
  bool adds;
};

// With more rows, turning the weights into panels pays.
constexpr int64_t kFewRows = 8;
constexpr int64_t kDotColumns = 16;  // n's of a piece

PLAIN Split split_of(const Dots& p) {
  return split(ceil_div(p.N, kDotColumns), p.M * p.K * kDotColumns);
}

constexpr int64_t kCombinedColumns = 256;  // n's of a piece
PLAIN Split split_of(const Combinations& p) {
  const int64_t pieces = p.M > 0 ? ceil_div(p.N, kCombinedColumns) : 0;
  return split(pieces, p.M * p.K * kCombinedColumns);
}

}  // namespace torchext::cpu
