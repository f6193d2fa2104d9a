// A product of few rows, limited by how fast the weights come from memory: they are read where they
// are, once, lanes along k.
//   y[m, n] = act(bias[n] + residual[m, n] + sum over k of x[m, k] * w[n, k])
#pragma once

#include "../common/activation.h"
#include "pool2d.h"

namespace torchext::cpu {

struct Dots {
  DType dtype;
  int64_t M, N, K;
  const void *x, *w, *bias, *residual;  // the last two may be null
  void* y;
  int64_t x_row, w_row, residual_row, y_row;  // elements of a row are adjacent
  Activation activation;
};

// With more rows, turning the weights into panels pays.
constexpr int64_t kFewRows = 8;
constexpr int64_t kDotColumns = 16;  // n's of a piece

PLAIN Split split_of(const Dots& p) {
  return split(ceil_div(p.N, kDotColumns), p.M * p.K * kDotColumns);
}

}  // namespace torchext::cpu
