// Convolutions of one input channel a group, which are no products: depthwise.cu.
#pragma once

#include "../op/conv2d.h"
#include "lay_out.cuh"

namespace torchext {

inline bool is_depthwise(const Conv2dShape& p) { return p.groups > 1 && p.C == p.groups; }

void launch_depthwise(const Conv2d& p, const Queue& queue);
void launch_depthwise(const Conv2dBackwardInput& p, const Queue& queue);
void launch_depthwise(const Conv2dBackwardWeight& p, const Queue& queue);

// The kernel as [h][w][outputs], or turned around.
template <class T>
Laid<T> filter_of(const char* op, const Conv2dShape& p, const void* weight, const Strides& s,
                  bool turned, const Queue& queue) {
  const auto* data = static_cast<const T*>(weight);
  Strides taps{0, s.n, s.h, s.w};
  if (turned) {
    data += (p.h.kernel - 1) * s.h + (p.w.kernel - 1) * s.w;
    taps.h = -s.h, taps.w = -s.w;
  }
  return laid_out_copy<T>(op, {data, taps, 1, p.O, p.h.kernel, p.w.kernel, 1}, {}, queue);
}

}  // namespace torchext
