// max_pool2d: y[o] = max over the window's taps of x, NaN winning, the first of equal values kept.
// Training saves the winning tap, i * kernel_w + j, as one byte (int32 for windows over 256 taps).
#pragma once

#include "pool2d.h"

namespace torchext {

struct MaxPool2d : Pool2d {
  const void* x;
  void* y;
  void* offsets;  // null in inference
  bool wide_offsets;
  Strides x_stride, y_stride;  // offsets have y's strides
};

struct MaxPool2dBackward : Pool2d {
  const void* grad_y;
  const void* offsets;
  void* grad_x;
  bool wide_offsets;
  Strides grad_y_stride, offset_stride, grad_x_stride;
};

// Offsets as torch's flat int64 indices into the H x W plane.
struct MaxPool2dIndices : Pool2d {
  const void* offsets;
  int64_t* indices;
  bool wide_offsets;
  Strides offset_stride, index_stride;
};

void launch(const MaxPool2d& p, const Queue& queue);
void launch(const MaxPool2dBackward& p, const Queue& queue);
void launch(const MaxPool2dIndices& p, const Queue& queue);

}  // namespace torchext
