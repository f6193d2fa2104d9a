// conv2d's launch, for launches that follow it up.
#pragma once

#include <functional>

#include "../../op/conv2d.h"

namespace torchext {

// So many images at a time; then done(begin, end) finds their results still in the caches. Without
// it, all images at once.
struct Parts {
  int64_t images = 0;
  std::function<void(int64_t, int64_t)> done;
};

void launch_parts(const Conv2d& p, const Parts& parts);

}  // namespace torchext
