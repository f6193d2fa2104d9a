// How ops over dense rows are split among threads: by shape only, so results never depend on them.
#pragma once

#include "../op/activation.h"
#include "../op/binary_cross_entropy.h"
#include "../op/cross_entropy.h"
#include "../op/dropout.h"
#include "../op/layer_norm.h"
#include "../op/local_response_norm.h"
#include "../op/softmax.h"
#include "pool2d.h"

namespace torchext::cpu {

// Elements of one piece of an op that goes element by element.
constexpr int64_t kPieceElements = 4096;

PLAIN Split elementwise_split(int64_t count, int64_t cost) {
  return split(ceil_div(count, kPieceElements), kPieceElements * cost);
}
PLAIN Range elements_of_pieces(int64_t begin, int64_t end, int64_t count) {
  return {begin * kPieceElements, min_of(count, end * kPieceElements)};
}

PLAIN Split split_of(const Activate& p) { return elementwise_split(p.count, 8); }
PLAIN Split split_of(const BinaryCrossEntropy& p) { return elementwise_split(p.count, 16); }
PLAIN Split split_of(const Dropout& p) { return elementwise_split(p.count, 16); }
PLAIN Split split_of(const ActivateBackward& p) { return elementwise_split(p.count, 8); }

// Columns of one piece of a sum over rows: whole cache lines of any type.
constexpr int64_t kColumns = 64;

PLAIN Split split_of(const LayerNorm& p) { return split(p.rows, p.size * 4); }

// Rows of channels, or one channel after another of a block of columns.
template <class P>
PLAIN Split window_split(const P& p) {
  return split(p.outer * ceil_div(p.inner, kColumns), p.C * min_of(p.inner, kColumns) * 16);
}
PLAIN Split split_of(const LocalResponseNorm& p) { return window_split(p); }
PLAIN Split split_of(const LocalResponseNormBackward& p) { return window_split(p); }

PLAIN Split split_of(const Softmax& p) { return split(p.outer, p.size * p.inner * 16); }
PLAIN Split split_of(const SoftmaxBackward& p) { return split(p.outer, p.size * p.inner * 8); }
PLAIN Split split_of(const CrossEntropyForward& p) {
  return split(p.outer, p.classes * p.inner * 16);
}
PLAIN Split split_of(const CrossEntropyBackward& p) {
  return split(p.outer, p.classes * p.inner * 16);
}

}  // namespace torchext::cpu
