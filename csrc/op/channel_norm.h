// batch_norm and group_norm of an N x C x S tensor, S adjacent or C adjacent in memory:
// y = (x - mean) * rstd * weight + bias, with statistics over N and S of each channel, or over the
// channels of a group and S of each image. Statistics, weights and their gradients are of the type
// computed in: float, or double for float64.
#pragma once

#include "../common/activation.h"
#include "../common/plain.h"

namespace torchext {

struct Channels {
  DType dtype;
  int64_t N, C, S;
  bool channels_last;  // C adjacent
  int64_t groups;      // of group_norm; 0: batch_norm
  double eps;
};

struct ChannelNorm : Channels {
  bool training;  // batch_norm: the batch's statistics, not the running ones
  double momentum;
  const void *x, *weight, *bias;           // null: 1, 0
  const void *running_mean, *running_var;  // null: none
  void* y;
  void *mean, *rstd;                         // batch_norm: [C]; group_norm: [N, groups]
  void *new_running_mean, *new_running_var;  // null: none
  // For conv_bn_act, y = act(... + residual); null or none for the others.
  const void* residual;
  Activation activation;
  // If known, [parts][C]: means and sums of squares around them, of parts of all pixels. On the CPU
  // cpu::ChannelMoments's, of cpu::parts_of_image() to an image.
  const void *channel_means, *channel_squares;
  const void* part_counts;  // [parts]: of their pixels, of the type computed in; GPUs alone
  int64_t parts;
};

struct ChannelNormBackward : Channels {
  bool training;
  const void *grad_y, *x, *mean, *rstd, *weight;
  void* grad_x;
  void *grad_weight, *grad_bias;  // [C], or null
  // For conv_bn_act; null or none for the others.
  const void *bias, *residual;
  Activation activation;
  void* grad_residual;
};

void launch(const ChannelNorm& p, const Queue& queue);
void launch(const ChannelNormBackward& p, const Queue& queue);

}  // namespace torchext
