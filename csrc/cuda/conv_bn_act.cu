// conv_bn_act (op/conv_bn_act.h). Inference: conv2d whose epilogue has the norm as a scale and a
// shift. Training: conv2d, whose epilogue takes statistics of what it stores, then batch norm of z
// with residual and activation in its pass.
#include "../op/conv_bn_act.h"
#include "conv2d.cuh"
#include "fold.cuh"

namespace torchext {

void launch(const ConvBnActInference& p, const Queue& queue) {
  Conv2d conv = p.conv;
  fold_norm("conv_bn_act", conv, p.norm, queue);
  launch(conv, queue);
}

void launch(const ConvBnAct& p, const Queue& queue) {
  ChannelNorm norm = p.norm;
  if (norm.N > 0 && norm.training) {
    const PartsOfMoments<float> moments = launch_with_moments(p.conv, queue);
    norm.channel_means = moments.means, norm.channel_squares = moments.squares;
    norm.part_counts = moments.counts, norm.parts = moments.parts;
  } else if (norm.N > 0) {
    launch(p.conv, queue);
  }
  launch(norm, queue);
}

}  // namespace torchext
