// conv_bn_act on the CPU. Inference: conv2d with a scale and a shift of its sums. Training: sums
// over the channels of z while it is in the caches, then one pass that normalises; the gradient of
// z takes two passes over it and grad_y (channel_norm.cpp).
#include "../../op/conv_bn_act.h"

#include "../channels.h"
#include "conv2d.h"
#include "fold.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::ChannelMoments& p, const Queue& queue);

void launch(const ConvBnActInference& p, const Queue& queue) {
  Conv2d conv = p.conv;
  const cpu::Folded norm(conv.dtype, conv.O, p.norm);
  conv.scale = norm.scale(), conv.shift = norm.shift();
  launch(conv, queue);
}

namespace {

constexpr int64_t kCached = 1 << 20;  // bytes of z that stay in a core's caches

}  // namespace

void launch(const ConvBnAct& p, const Queue& queue) {
  ChannelNorm norm = p.norm;
  if (!norm.training) {
    if (norm.N > 0) launch(p.conv, queue);
    return launch(norm, queue);
  }
  cpu::ChannelMoments some{};
  static_cast<Channels&>(some) = norm;
  const int64_t parts = cpu::parts_of_image(norm), size = cpu::compute_size(norm.dtype);
  some.S /= parts;
  const cpu::Scratch sums(norm.dtype, 2, norm.N * parts, norm.C);
  char* const means = static_cast<char*>(sums.get());
  char* const squares = means + norm.N * parts * norm.C * size;
  norm.channel_means = means, norm.channel_squares = squares;
  const int64_t image = norm.C * norm.S;
  const auto add_up = [&](int64_t begin, int64_t end) {
    const int64_t first = begin * parts * norm.C * size;
    some.N = (end - begin) * parts;
    some.x = at(norm.x, norm.dtype, begin * image);
    some.mean = means + first, some.squares = squares + first;
    launch(some, queue);
  };
  const int64_t images = kCached / (image * (norm.dtype == DType::f64 ? 8 : 4));
  launch_parts(p.conv, {max_of(int64_t{1}, images), add_up});
  launch(norm, queue);
}

}  // namespace torchext
