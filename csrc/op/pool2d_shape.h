// The rules of concrete pooling shapes: checks and output sizes, once, for every backend.
// No torch in here, so `_host` can show the same rules to the tests.
#pragma once

#include "../common/check.h"
#include "../common/layout.h"
#include "pool2d.h"

namespace torchext {

struct PoolArguments {
  const IntList &kernel_size, &stride, &padding, &dilation;
  bool ceil_mode;
};

struct Pair {
  int64_t first, second;
};

inline Pair pair_of(const char* op, const char* argument, const IntList& values, int64_t least) {
  CHECK(values.size() == 2, op, ": ", argument, ": got ", values.size(), " values, expected 2");
  const Pair pair{values[0], values[1]};
  CHECK(pair.first >= least && pair.second >= least, op, ": ", argument, ": got [", pair.first,
        ", ", pair.second, "], expected values of at least ", least);
  return pair;
}

inline int64_t pool_output_size(const char* op, int64_t size, const Window& window,
                                bool ceil_mode) {
  const int64_t span =
      add(op, "dilation", mul(op, "dilation", window.dilation, window.kernel - 1), 1);
  CHECK(window.padding <= window.kernel / 2, op, ": padding: got ", window.padding,
        ", expected at most half the kernel size of ", window.kernel);
  const int64_t padded = add(op, "padding", size, mul(op, "padding", 2, window.padding));
  // ceil_mode adds a last window, if it starts inside the input or its left padding; it may be the
  // only one, and larger than the input.
  const int64_t room = padded - span;
  int64_t outputs = room >= 0 ? room / window.stride + 1 : 0;
  if (ceil_mode && room < 0) {
    outputs = -room < window.stride ? 1 : 0;
  } else if (ceil_mode && room % window.stride != 0 &&
             outputs <= (size + window.padding - 1) / window.stride) {
    outputs += 1;
  }
  CHECK(outputs >= 1, op, ": kernel_size: got a window spanning ", span,
        ", expected at most the padded input's ", padded);
  return outputs;
}

inline void check_pool_input(const char* op, const char* argument, const Dims& sizes) {
  CHECK(sizes.rank == 3 || sizes.rank == 4, op, ": ", argument, ": got ", sizes.rank,
        " dimensions, expected 3 (C, H, W) or 4 (N, C, H, W)");
  for (int d = sizes.rank - 3; d < sizes.rank; ++d) {
    CHECK(sizes[d] > 0, op, ": ", argument, ": got size 0 in dimension ", d,
          ", expected only the batch to be empty");
  }
}

// The input's side of the geometry; a 3-d input is a batch of one.
inline Pool2d pool2d_over(const char* op, const Dims& sizes) {
  check_pool_input(op, "input", sizes);
  Pool2d p{};
  p.N = sizes.rank == 4 ? sizes[0] : 1;
  p.C = sizes[-3];
  p.H = sizes[-2];
  p.W = sizes[-1];
  return p;
}

inline Pool2d make_pool2d(const char* op, const Dims& sizes, const PoolArguments& a) {
  const Pair kernel = pair_of(op, "kernel_size", a.kernel_size, 1);
  const Pair stride = pair_of(op, "stride", a.stride, 1);
  const Pair padding = pair_of(op, "padding", a.padding, 0);
  const Pair dilation = pair_of(op, "dilation", a.dilation, 1);
  Pool2d p = pool2d_over(op, sizes);
  p.h = {kernel.first, stride.first, padding.first, dilation.first};
  p.w = {kernel.second, stride.second, padding.second, dilation.second};
  p.OH = pool_output_size(op, p.H, p.h, a.ceil_mode);
  p.OW = pool_output_size(op, p.W, p.w, a.ceil_mode);
  return p;
}

inline Pool2d make_adaptive_pool2d(const char* op, const Dims& sizes, Pair output_size) {
  Pool2d p = pool2d_over(op, sizes);
  p.OH = output_size.first;
  p.OW = output_size.second;
  mul(op, "output_size", p.H, add(op, "output_size", p.OH, 1));  // adaptive_window's products
  mul(op, "output_size", p.W, add(op, "output_size", p.OW, 1));
  return p;
}

// The input's shape with other spatial sizes.
inline Dims with_spatial_size(const Dims& sizes, int64_t height, int64_t width) {
  Dims result = sizes;
  result[-2] = height;
  result[-1] = width;
  return result;
}

// What a backward op may trust: gradients (and saved offsets) of exactly the forward's output
// shape.
inline void check_pooled_shape(const char* op, const char* argument, const Dims& got,
                               const Dims& expected) {
  CHECK(got == expected, op, ": ", argument, ": got shape ", got, ", expected ", expected);
}

}  // namespace torchext
