// depthwise_separable: a depthwise convolution, norm and activation, then a pointwise convolution,
// norm, residual and activation. Inference only: both norms by running statistics.
#pragma once

#include "conv_bn_act.h"

namespace torchext {

struct DepthwiseSeparable {
  Conv2d depthwise;  // its result is nowhere: y is null
  RunningNorm depthwise_norm;
  Conv2d pointwise;  // x is null
  RunningNorm pointwise_norm;
};

void launch(const DepthwiseSeparable& p, const Queue& queue);

}  // namespace torchext
