// Convolutions of all channels: what conv_bn_act asks for, and the kernel that conv2d has for few.
#pragma once

#include "../op/conv2d.h"
#include "moments.cuh"

namespace torchext {

// launch(), and moments of what it stores: none where sums are split or exact.
PartsOfMoments<float> launch_with_moments(const Conv2d& p, const Queue& queue);

// Of 16-bit images of up to four channels, whose channels would be rounded up to eight.
bool has_few_channels(const Conv2d& p);
void launch_few_channels(const Conv2d& p, PartsOfMoments<float>* moments, const Queue& queue);

}  // namespace torchext
