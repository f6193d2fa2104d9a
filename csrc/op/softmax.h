// softmax and log_softmax of [outer, size, inner], over size: y = exp(x - max) / sum of exp(x -
// max), or its logarithm. Backward from the result: grad_x = y * (grad_y - sum of grad_y * y), and
// for the logarithm grad_y - exp(y) * sum of grad_y.
#pragma once

#include "../common/plain.h"

namespace torchext {

struct Softmax {
  DType dtype;
  int64_t outer, size, inner;
  bool log;
  const void* x;
  void* y;
};

struct SoftmaxBackward {
  DType dtype;
  int64_t outer, size, inner;
  bool log;
  const void *grad_y, *y;
  void* grad_x;
};

void launch(const Softmax& p, const Queue& queue);
void launch(const SoftmaxBackward& p, const Queue& queue);

}  // namespace torchext
