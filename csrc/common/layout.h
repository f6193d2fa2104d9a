// Memory formats, by PyTorch's own rule (c10's is_channels_last_strides_2d): what an output's
// strides are, given its input's. Plain C++: `_host` shows it to the tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "check.h"

namespace torchext {

using IntList = std::vector<int64_t>;  // an int[] argument

// The sizes or strides of a tensor, without an allocation: this is every call's path.
struct Dims {
  static constexpr int kMost = 8;
  int rank = 0;
  int64_t values[kMost] = {};

  Dims() = default;
  Dims(const int64_t* from, int64_t count) {
    rank = static_cast<int>(count < kMost ? count : kMost);  // more is only ever refused
    for (int d = 0; d < rank; ++d) values[d] = from[d];
  }
  int64_t& operator[](int d) { return values[d < 0 ? rank + d : d]; }
  int64_t operator[](int d) const { return values[d < 0 ? rank + d : d]; }
  bool operator==(const Dims& other) const {
    if (rank != other.rank) return false;
    for (int d = 0; d < rank; ++d) {
      if (values[d] != other.values[d]) return false;
    }
    return true;
  }
  friend std::ostream& operator<<(std::ostream& out, const Dims& dims) {
    for (int d = 0; d < dims.rank; ++d) out << (d ? ", " : "[") << dims.values[d];
    return out << "]";
  }
};

// True for a 4-D tensor whose strides say channels_last. Ambiguous ones (C = 1 and H = W = 1, say)
// count as contiguous, as in torch.
inline bool is_channels_last(const Dims& sizes, const Dims& strides) {
  if (sizes.rank != 4 || strides[1] == 0) return false;
  int64_t least = 0;
  for (int d : {1, 3, 2, 0}) {
    if (sizes[d] == 0 || strides[d] < least) return false;
    if (d == 0 && least == strides[1]) return false;
    least = strides[d];
    if (sizes[d] > 1) least *= sizes[d];
  }
  return true;
}

// Strides of a dense tensor; channels_last needs 4 dimensions. Only contiguous strides take a size
// of 0 for 1: so it is in torch.
inline Dims dense_strides(const char* op, const Dims& sizes, bool channels_last) {
  Dims strides;
  strides.rank = sizes.rank;
  int64_t step = 1;
  const auto place = [&](int d, int64_t least) {
    strides[d] = step;
    step = mul(op, "output", step, std::max(sizes[d], least));
  };
  if (channels_last) {
    for (int d : {1, 3, 2, 0}) place(d, 0);
  } else {
    for (int d = sizes.rank - 1; d >= 0; --d) place(d, 1);
  }
  return strides;
}

}  // namespace torchext
