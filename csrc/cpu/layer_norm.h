// How layer_norm's gradient is split among threads: by rows, in blocks that sum up what they add to
// the gradients of the weights.
#pragma once

#include "../op/layer_norm.h"
#include "pool2d.h"

namespace torchext::cpu {

struct LayerNormRows : LayerNormBackward {
  int64_t blocks;
  void *weight_sums, *bias_sums;  // [blocks][size], of the type computed in; or null
};

// Few enough blocks that adding them up is nothing, but for long sums, which keep their precision.
PLAIN int64_t row_blocks(const LayerNormBackward& p) {
  return ceil_div(p.rows, min_of(int64_t{128}, max_of(int64_t{16}, ceil_div(p.rows, int64_t{32}))));
}

PLAIN Split split_of(const LayerNormRows& p) {
  return split(p.blocks, ceil_div(p.rows, p.blocks) * p.size * 6);
}

}  // namespace torchext::cpu
