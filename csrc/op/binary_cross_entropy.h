// binary_cross_entropy, element by element, of probabilities x:
//   loss = -weight * (t * max(log x, -100) + (1 - t) * max(log(1 - x), -100))
// or of logits, with q = 1 + (pos_weight - 1) * t:
//   loss = weight * ((1 - t) * x + q * log(1 + exp(-x)))
#pragma once

#include "../common/plain.h"

namespace torchext {

struct BinaryCrossEntropy {
  DType dtype;
  int64_t count;
  bool logits;
  const void *x, *target;
  const void *weight, *pos_weight;  // null: 1
  const void* grad_loss;            // null: the loss is wanted, else the gradient of x
  void* y;
};

void launch(const BinaryCrossEntropy& p, const Queue& queue);

}  // namespace torchext
