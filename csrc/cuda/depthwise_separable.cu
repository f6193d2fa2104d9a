// depthwise_separable (op/depthwise_separable.h): the depthwise convolution, its norm and
// activation in one kernel, the pointwise one with all that follows in another.
#include "../op/depthwise_separable.h"
#include "fold.cuh"

namespace torchext {

void launch(const DepthwiseSeparable& p, const Queue& queue) {
  const char* op = "depthwise_separable_inference";
  Conv2d depthwise = p.depthwise, pointwise = p.pointwise;
  fold_norm(op, depthwise, p.depthwise_norm, queue);
  fold_norm(op, pointwise, p.pointwise_norm, queue);
  const int64_t C = depthwise.O, W = depthwise.OW, H = depthwise.OH;
  for_dtype(depthwise.dtype, [&](auto zero) {
    depthwise.y = tile::scratch<decltype(zero)>(queue, depthwise.N * H * W * C);
  });
  depthwise.y_stride = {H * W * C, 1, W * C, C};
  pointwise.x = depthwise.y;
  pointwise.x_stride = depthwise.y_stride;
  launch(depthwise, queue);
  launch(pointwise, queue);
}

}  // namespace torchext
