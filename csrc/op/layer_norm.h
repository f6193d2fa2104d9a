// layer_norm over rows of `size` adjacent elements: y = (x - mean) * rstd * weight + bias, with
// mean = sum x / size and rstd = 1 / sqrt(sum (x - mean)^2 / size + eps). Statistics, weights and
// their gradients are of the type computed in: float, or double for float64.
#pragma once

#include "../common/plain.h"

namespace torchext {

struct LayerNorm {
  DType dtype;
  int64_t rows, size;
  double eps;
  const void *x, *residual;   // x + residual is normalised; null: x
  const void *weight, *bias;  // null: 1, 0
  void *y, *sum;              // sum = x + residual
  void *mean, *rstd;          // [rows]; null: not wanted
};

// grad_x = rstd * (g - mean of g - xhat * mean of g * xhat), g = grad_y * weight;
// grad_weight = sum over rows of grad_y * xhat; grad_bias = sum over rows of grad_y.
struct LayerNormBackward {
  DType dtype;
  int64_t rows, size;
  const void *grad_y, *x, *mean, *rstd, *weight;
  void* grad_x;
  void *grad_weight, *grad_bias;  // null: not wanted
};

void launch(const LayerNorm& p, const Queue& queue);
void launch(const LayerNormBackward& p, const Queue& queue);

}  // namespace torchext
