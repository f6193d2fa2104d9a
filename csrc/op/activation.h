// activation: y = f(x), element by element; backward: grad_x = grad_y * f'(x).
#pragma once

#include "../common/activation.h"
#include "../common/plain.h"

namespace torchext {

struct Activate {
  DType dtype;
  Activation kind;
  int64_t count;
  const void* x;
  void* y;
};

struct ActivateBackward {
  DType dtype;
  Activation kind;
  int64_t count;
  const void* grad_y;
  const void* x;
  void* grad_x;
};

void launch(const Activate& p, const Queue& queue);
void launch(const ActivateBackward& p, const Queue& queue);

}  // namespace torchext
