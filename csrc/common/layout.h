// Memory formats, by PyTorch's own rule (c10's is_channels_last_strides_2d): what an output's
// strides are, given its input's. Plain C++: `_host` shows it to the tests.
#pragma once

#include <cstdint>
#include <vector>

#include "check.h"

namespace torchext {

using IntList = std::vector<int64_t>;

// True for a 4-D tensor whose strides say channels_last. Ambiguous ones (C = 1 and H = W = 1, say)
// count as contiguous, as in torch.
inline bool is_channels_last(const IntList& sizes, const IntList& strides) {
  if (sizes.size() != 4 || strides[1] == 0) return false;
  int64_t least = 0;
  for (int d : {1, 3, 2, 0}) {
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;
    least = strides[d];
    if (sizes[d] > 1) least *= sizes[d];
  }
  return true;
}

// Strides of a dense tensor of 3 or 4 dimensions; channels_last needs 4.
inline IntList dense_strides(const char* op, const IntList& sizes, bool channels_last) {
  const size_t rank = sizes.size();
  std::vector<size_t> order;  // innermost first
  if (channels_last) {
    order = {1, 3, 2, 0};
  } else {
    for (size_t i = rank; i-- > 0;) order.push_back(i);
  }
  IntList strides(rank);
  int64_t step = 1;
  for (size_t d : order) {
    strides[d] = step;
    step = mul(op, "output", step, sizes[d] > 1 ? sizes[d] : 1);
  }
  return strides;
}

}  // namespace torchext
