// cross_entropy of logits [outer, classes, inner]: with lse = log of the sum of exp(x) over
// classes, the loss of an item is the sum over classes of weight * target * (lse - x). Targets are
// classes (int64) or probabilities; label_smoothing mixes them with uniform ones. Losses, lse,
// weights are of the type computed in.
#pragma once

#include "../common/plain.h"

namespace torchext {

struct CrossEntropy {
  DType dtype;
  int64_t outer, classes, inner;
  const void* x;
  const int64_t* target;      // [outer, inner], or null
  const void* probabilities;  // like x, or null
  const void* weight;         // [classes]; null: 1
  int64_t ignore_index;
  double label_smoothing;
  double weights;  // their sum
};

struct CrossEntropyForward : CrossEntropy {
  void *loss, *lse;  // [outer, inner]
};

struct CrossEntropyBackward : CrossEntropy {
  const void* lse;
  const void* grad_loss;  // [outer, inner], of the type computed in
  void* grad_x;
};

void launch(const CrossEntropyForward& p, const Queue& queue);
void launch(const CrossEntropyBackward& p, const Queue& queue);

}  // namespace torchext
