// Depthwise convolution, one filter per channel, lanes along the channels of a laid-out image:
//   y[n, p, c] = epilogue(sum over taps t of x[n, p * stride + t * dilation, c] * w[t, c])
#pragma once

#include "product.h"

namespace torchext::cpu {

struct Depthwise {
  DType dtype;  // of y, bias and residual
  int64_t N, C, OH, OW, taps;
  const void* x;                     // F
  int64_t x_image, x_row, x_column;  // from one output to the next
  const int64_t* x_tap;
  const void* w;  // F, channels adjacent
  const int64_t* w_tap;
  const void *bias, *residual;
  void* y;
  Strides y_stride, residual_stride;
  Activation activation;
  const void *scale, *shift;  // F, for sum * scale + shift; or null
  // Of an image without padding: output (oh, ow) has tap t in row oh * step_h + tap_h[t] and column
  // ow * step_w + tap_w[t], and taps beyond its H x W pixels count for nothing. Null: none ever is.
  const int64_t *tap_h, *tap_w;
  int64_t step_h, step_w, H, W;
};
constexpr int64_t kMostBorderTaps = 64;  // of a filter on an image without padding

// sums[t][c] = sum over n and p of grad[n, p, c] * x[n, p * stride + t * dilation, c]
struct DepthwiseWeight {
  DType dtype;
  int64_t N, C, OH, OW, taps;
  const void* grad;  // F
  int64_t grad_image, grad_row, grad_column;
  const void* x;  // F
  int64_t x_image, x_row, x_column;
  const int64_t* x_tap;
  void* sums;  // F
};

PLAIN Split split_of(const Depthwise& p) { return split(p.N * p.OH, p.OW * p.C * p.taps); }
PLAIN Split split_of(const DepthwiseWeight& p) {
  return split(ceil_div(p.C, panel_columns(p.dtype)),
               p.N * p.OH * p.OW * p.taps * panel_columns(p.dtype));
}

}  // namespace torchext::cpu
