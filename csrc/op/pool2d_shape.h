// The rules of concrete pooling shapes: checks and output sizes, once, for every backend.
// No torch in here, so `_host` can show the same rules to the tests.
#pragma once

#include "../common/check.h"
#include "../common/layout.h"
#include "pool2d.h"

namespace torchext {

struct PoolArguments {
  IntList kernel_size, stride, padding, dilation;
  bool ceil_mode;
};

inline void check_pair(const char* op, const char* argument, const IntList& pair, int64_t least) {
  CHECK(pair.size() == 2, op, ": ", argument, ": got ", pair.size(), " values, expected 2");
  CHECK(pair[0] >= least && pair[1] >= least, op, ": ", argument, ": got [", pair[0], ", ", pair[1],
        "], expected values of at least ", least);
}

inline int64_t pool_output_size(const char* op, int64_t size, const Window& window, bool ceil_mode) {
  const int64_t span = add(op, "dilation", mul(op, "dilation", window.dilation, window.kernel - 1), 1);
  CHECK(window.padding <= span / 2, op, ": padding: got ", window.padding,
        ", expected at most half the window's span of ", span);
  const int64_t padded = add(op, "padding", size, mul(op, "padding", 2, window.padding));
  CHECK(span <= padded, op, ": kernel_size: got a window spanning ", span,
        ", expected at most the padded input's ", padded);
  const int64_t room = padded - span;
  int64_t outputs = room / window.stride + 1;
  // ceil_mode adds a last window, if it starts inside the input or its left padding.
  if (ceil_mode && room % window.stride != 0 &&
      outputs <= (size + window.padding - 1) / window.stride) {
    outputs += 1;
  }
  return outputs;
}

inline void check_pool_input(const char* op, const char* argument, const IntList& sizes) {
  CHECK(sizes.size() == 3 || sizes.size() == 4, op, ": ", argument, ": got ", sizes.size(),
        " dimensions, expected 3 (C, H, W) or 4 (N, C, H, W)");
  for (size_t d = sizes.size() - 3; d < sizes.size(); ++d) {
    CHECK(sizes[d] > 0, op, ": ", argument, ": got size 0 in dimension ", d,
          ", expected only the batch to be empty");
  }
}

// Geometry of a sliding pool over an input of `sizes`; a 3-d input is a batch of one.
inline Pool2d make_pool2d(const char* op, const IntList& sizes, const PoolArguments& a) {
  check_pair(op, "kernel_size", a.kernel_size, 1);
  check_pair(op, "stride", a.stride, 1);
  check_pair(op, "padding", a.padding, 0);
  check_pair(op, "dilation", a.dilation, 1);
  check_pool_input(op, "input", sizes);
  Pool2d p{};
  const size_t rank = sizes.size();
  p.N = rank == 4 ? sizes[0] : 1;
  p.C = sizes[rank - 3];
  p.H = sizes[rank - 2];
  p.W = sizes[rank - 1];
  p.h = {a.kernel_size[0], a.stride[0], a.padding[0], a.dilation[0]};
  p.w = {a.kernel_size[1], a.stride[1], a.padding[1], a.dilation[1]};
  p.OH = pool_output_size(op, p.H, p.h, a.ceil_mode);
  p.OW = pool_output_size(op, p.W, p.w, a.ceil_mode);
  return p;
}

inline Pool2d make_adaptive_pool2d(const char* op, const IntList& sizes, const IntList& output_size) {
  check_pair(op, "output_size", output_size, 0);
  check_pool_input(op, "input", sizes);
  Pool2d p{};
  const size_t rank = sizes.size();
  p.N = rank == 4 ? sizes[0] : 1;
  p.C = sizes[rank - 3];
  p.H = sizes[rank - 2];
  p.W = sizes[rank - 1];
  p.OH = output_size[0];
  p.OW = output_size[1];
  mul(op, "output_size", p.H, add(op, "output_size", p.OH, 1));  // adaptive_window's products
  mul(op, "output_size", p.W, add(op, "output_size", p.OW, 1));
  return p;
}

// The input's shape with other spatial sizes.
inline IntList with_spatial_size(const IntList& sizes, int64_t height, int64_t width) {
  IntList result = sizes;
  result[sizes.size() - 2] = height;
  result[sizes.size() - 1] = width;
  return result;
}

// What a backward op may trust: gradients (and saved offsets) of exactly the forward's output shape.
inline void check_pooled_shape(const char* op, const char* argument, const IntList& got,
                               const IntList& expected) {
  CHECK(got == expected, op, ": ", argument, ": got a shape other than the forward's output");
}

}  // namespace torchext
