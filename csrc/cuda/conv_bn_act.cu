// conv_bn_act (op/conv_bn_act.h). Inference: conv2d whose epilogue has the norm as a scale and a
// shift. Training: conv2d, then batch norm of z with residual and activation in its pass.
#include "../op/conv_bn_act.h"
#include "fold.cuh"

namespace torchext {

void launch(const ConvBnActInference& p, const Queue& queue) {
  Conv2d conv = p.conv;
  fold_norm("conv_bn_act", conv, p.norm, queue);
  launch(conv, queue);
}

void launch(const ConvBnAct& p, const Queue& queue) {
  if (p.norm.N > 0) launch(p.conv, queue);
  launch(p.norm, queue);
}

}  // namespace torchext
