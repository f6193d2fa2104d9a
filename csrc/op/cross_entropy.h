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
};

// Of the items.
struct CrossEntropyForward : CrossEntropy {
  void *loss, *lse;  // [outer, inner]
};

struct CrossEntropyBackward : CrossEntropy {
  const void* lse;
  const void* grad_loss;  // [outer, inner], of the type computed in
  void* grad_x;
  double weights;  // their sum
};

// Of the whole op: the items' losses are summed up, or averaged.
struct CrossEntropyLoss : CrossEntropyForward {
  void* total;    // what a mean divides by: the weights of the classes that are not ignored, or
                  // the number of items
  void* reduced;  // the loss, one number; null: the items' are
  bool mean;
};

struct CrossEntropyGradient : CrossEntropyBackward {
  bool one_gradient;  // grad_loss is one number for all
  const void* total;  // which it is divided by; null: 1
};

void launch(const CrossEntropyLoss& p, const Queue& queue);
void launch(const CrossEntropyGradient& p, const Queue& queue);

}  // namespace torchext
