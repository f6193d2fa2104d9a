// Depthwise convolution, one filter per channel, lanes along the channels of a laid-out image:
//   y[n, p, c] = epilogue(sum over taps t of x[n, p * stride + t * dilation, c] * w[t, c])
// and that of groups of so few channels, as many in as out, that panels would be mostly empty:
//   ... sum over t and k < group of x[n, ..., c / group * group + k] * w[t, k, c]
#pragma once

#include "product.h"

namespace torchext::cpu {

// Channels per group.
PLAIN bool is_narrow(int64_t group) { return group == 4 || group == 8; }

// Which pixels an output sees: of a padded image, or of a bare one, where output (oh, ow) has tap t
// in row oh * step_h + tap_h[t] and column ow * step_w + tap_w[t], and taps beyond its H x W pixels
// count for nothing.
struct Filter {
  DType dtype;  // of y, bias and residual
  int64_t N, C, group, OH, OW, taps;
  const void* x;                     // F
  int64_t x_image, x_row, x_column;  // from one output to the next
  const int64_t* x_tap;
  const int64_t* w_tap;  // the tap's place in w, or in sums
  int64_t threes;  // from tap to tap in rows of three taps which neighbouring outputs share; or 0
  const int64_t *tap_h, *tap_w;  // null: padded
  int64_t step_h, step_w, H, W;
};
constexpr int64_t kMostBorderTaps = 64;  // of a filter on a bare image

struct Depthwise : Filter {
  bool x_stored;  // x is of dtype, not F
  const void* w;  // F, channels adjacent
  const void *bias, *residual;
  void* y;
  Strides y_stride, residual_stride;
  Activation activation;
  const void *scale, *shift;  // F, for sum * scale + shift; or null
};

// sums[block][t][k][c] = sum over n and p of grad[n, p, c] * x[n, p * stride + t * dilation, k-th
// channel of c's group], of the block's rows of outputs.
struct DepthwiseWeight : Filter {
  const void* grad;  // F
  int64_t grad_image, grad_row, grad_column;
  int64_t blocks;
  void* sums;  // F
};
// Adding them up is little work.
PLAIN int64_t weight_blocks(const Filter& p) {
  return max_of(int64_t{1}, min_of(p.N * p.OH, max_of(int64_t{8}, 32 / p.group)));
}

PLAIN Split split_of(const Depthwise& p) {
  return split(p.N * p.OH, p.OW * p.C * p.taps * p.group);
}
PLAIN Split split_of(const DepthwiseWeight& p) {
  return split(p.blocks, ceil_div(p.N * p.OH, p.blocks) * p.OW * p.C * p.taps * p.group);
}

}  // namespace torchext::cpu
