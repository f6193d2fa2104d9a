// What batch_norm and group_norm are made of: sums over each channel of each image, and a function
// per channel of every element. Sums are [N, C], of the type computed in; so are the arrays that
// the functions read of group_norm, those of batch_norm, whose images are alike, are [C].
#pragma once

#include "../common/activation.h"
#include "../op/channel_norm.h"
#include "pool2d.h"

namespace torchext::cpu {

// mean[n, c], and squares[n, c] = sum over s of (x - mean)^2.
struct ChannelMoments : Channels {
  const void* x;
  void *mean, *squares;
};

// What becomes of a gradient g: g times the activation's derivative at what the forward op gave it,
// (x - mean) * scale + shift + residual.
struct Gate {
  Activation activation;                            // none: g stays, and nothing else is read
  const void *x, *mean, *scale, *shift, *residual;  // residual: or null
};

// of_g[n, c] = sum over s of g; of_products = sum of g * (x - mean[n, c]).
struct ChannelSums : Channels {
  const void *x, *g, *mean;
  void *of_g, *of_products;
  Gate gate;  // of g
};

// y = act((x - mean) * scale + g * g_scale + shift); without g, or without x, their terms are
// missing.
struct ChannelAffine : Channels {
  const void *x, *mean, *scale, *g, *g_scale, *shift;
  void* y;
  Activation activation;
  Gate gate;       // of g
  void* to_gated;  // g behind the gate, or null
};

constexpr int64_t kChannels = 256;  // of one piece of sums in channels_last: long runs of memory
constexpr int64_t kPixels = 16;     // of one piece of elements in channels_last

// Where the arrays have the value of channel index = n * C + c.
PLAIN int64_t array_index(const Channels& p, int64_t index) {
  return p.groups ? index : index % p.C;
}

// As many images as an image may be taken for: in channels_last its pixels follow each other, and
// more threads can add up smaller ones.
PLAIN int64_t parts_of_image(const Channels& p) {
  if (!p.channels_last) return 1;
  for (int64_t parts = ceil_div(p.S, 1024); p.S / parts >= 128; ++parts) {
    if (p.S % parts == 0) return parts;
  }
  return 1;
}

PLAIN Split split_of_channels(const Channels& p, int64_t cost) {
  return p.channels_last
             ? split(p.N * ceil_div(p.C, kChannels), p.S * min_of(p.C, kChannels) * cost)
             : split(p.N * p.C, p.S * cost);
}
PLAIN Split split_of(const ChannelMoments& p) { return split_of_channels(p, 2); }
PLAIN Split split_of(const ChannelSums& p) { return split_of_channels(p, 2); }
PLAIN Split split_of(const ChannelAffine& p) {
  return p.channels_last ? split(ceil_div(p.N * p.S, kPixels), kPixels * p.C * 2)
                         : split(p.N * p.C, p.S * 2);
}

}  // namespace torchext::cpu
