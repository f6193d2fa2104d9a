// local_response_norm of [outer, C, inner], over C: y = x / scale^beta, with scale = k + alpha
// times the mean of the squares of `size` channels around, of which those beyond the ends are 0. A
// channel c of the result depends on channels c - size / 2 to c + (size - 1) / 2.
#pragma once

#include "../common/plain.h"

namespace torchext {

struct LocalResponseNorm {
  DType dtype;
  int64_t outer, C, inner;
  int64_t size;
  double alpha, beta, k;
  const void* x;
  void *y, *scale;  // scale: of the type computed in, or null
};

struct LocalResponseNormBackward {
  DType dtype;
  int64_t outer, C, inner;
  int64_t size;
  double alpha, beta;
  const void *grad_y, *x, *y, *scale;
  void* grad_x;
};

void launch(const LocalResponseNorm& p, const Queue& queue);
void launch(const LocalResponseNormBackward& p, const Queue& queue);

}  // namespace torchext
