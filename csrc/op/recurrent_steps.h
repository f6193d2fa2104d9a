// The steps of recurrent layers in the order in which they are done.
#pragma once

#include <vector>

#include "recurrent.h"

namespace torchext {

struct Step {
  int64_t row, rows;  // rows of steps that come before in time; its own
};

inline std::vector<Step> steps_of(const Recurrent& p) {
  std::vector<Step> steps(p.T);
  int64_t row = 0;
  for (int64_t t = 0; t < p.T; ++t) {
    steps[p.reverse ? p.T - 1 - t : t] = {row, p.batch_sizes[t]};
    row += p.batch_sizes[t];
  }
  return steps;
}

}  // namespace torchext
