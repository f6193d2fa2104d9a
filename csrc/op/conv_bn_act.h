// conv_bn_act: y = act((z - mean) * rstd * gamma + beta + residual), z = conv2d(x, w) + bias, with
// the statistics of the batch or the running ones.
#pragma once

#include "channel_norm.h"
#include "conv2d.h"

namespace torchext {

// A batch norm by running statistics, of the type computed in; gamma, beta and the bias of the
// convolution before it may be null.
struct RunningNorm {
  const void *mean, *var, *gamma, *beta, *bias;
  double eps;
};

// y alone: the norm is a scale and a shift of the convolution's sums.
struct ConvBnActInference {
  Conv2d conv;  // with residual and activation
  RunningNorm norm;
};

// z is conv.y and norm.x; residual and activation are the norm's.
struct ConvBnAct {
  Conv2d conv;
  ChannelNorm norm;
};

void launch(const ConvBnActInference& p, const Queue& queue);
void launch(const ConvBnAct& p, const Queue& queue);

}  // namespace torchext
