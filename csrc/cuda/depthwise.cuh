// Convolutions of one input channel a group, which are no products: depthwise.cu.
#pragma once

#include "../op/conv2d.h"

namespace torchext {

inline bool is_depthwise(const Conv2dShape& p) { return p.groups > 1 && p.C == p.groups; }

void launch_depthwise(const Conv2d& p, const Queue& queue);
void launch_depthwise(const Conv2dBackwardInput& p, const Queue& queue);
void launch_depthwise(const Conv2dBackwardWeight& p, const Queue& queue);

}  // namespace torchext
