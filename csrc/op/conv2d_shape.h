// The rules of convolution's shapes: checks and output sizes, once, for every backend. No torch in
// here, so `_host` can show the same rules to the tests.
#pragma once

#include "../common/check.h"
#include "../common/layout.h"
#include "conv2d.h"
#include "pool2d_shape.h"

namespace torchext {

struct ConvArguments {
  const IntList &stride, &padding, &dilation;
  int64_t groups;
};

inline int64_t conv_output_size(const char* op, int64_t size, const Window& window) {
  const int64_t span =
      add(op, "dilation", mul(op, "dilation", window.dilation, window.kernel - 1), 1);
  const int64_t padded = add(op, "padding", size, mul(op, "padding", 2, window.padding));
  CHECK(padded >= span, op, ": weight: got a kernel spanning ", span,
        ", expected at most the padded input's ", padded);
  return (padded - span) / window.stride + 1;
}

// The geometry of conv2d over an input of these sizes; a 3-d input is a batch of one.
inline Conv2dShape make_conv2d(const char* op, const Dims& input, const Dims& weight,
                               const ConvArguments& a) {
  const Pair stride = pair_of(op, "stride", a.stride, 1);
  const Pair padding = pair_of(op, "padding", a.padding, 0);
  const Pair dilation = pair_of(op, "dilation", a.dilation, 1);
  CHECK(a.groups >= 1, op, ": groups: got ", a.groups, ", expected at least 1");
  CHECK(weight.rank == 4, op, ": weight: got ", weight.rank,
        " dimensions, expected 4 (O, C / groups, H, W)");
  for (int d = 0; d < 4; ++d) {
    CHECK(weight[d] > 0, op, ": weight: got size 0 in dimension ", d, ", expected no empty one");
  }
  CHECK(weight[0] % a.groups == 0, op, ": weight: got ", weight[0],
        " output channels, expected a multiple of the groups, ", a.groups);
  CHECK(input.rank == 3 || input.rank == 4, op, ": input: got ", input.rank,
        " dimensions, expected 3 (C, H, W) or 4 (N, C, H, W)");
  Conv2dShape p{};
  p.N = input.rank == 4 ? input[0] : 1;
  p.C = input[-3], p.H = input[-2], p.W = input[-1];
  p.O = weight[0];
  p.groups = a.groups;
  CHECK(p.C == mul(op, "groups", weight[1], a.groups), op, ": input: got ", p.C,
        " channels, expected ", weight[1], " times the groups, ", a.groups);
  p.h = {weight[2], stride.first, padding.first, dilation.first};
  p.w = {weight[3], stride.second, padding.second, dilation.second};
  p.OH = conv_output_size(op, p.H, p.h);
  p.OW = conv_output_size(op, p.W, p.w);
  return p;
}

inline Dims conv_output_sizes(const Dims& input, const Conv2dShape& p) {
  Dims sizes = with_spatial_size(input, p.OH, p.OW);
  sizes[-3] = p.O;
  return sizes;
}

inline void check_shape(const char* op, const char* argument, const Dims& got,
                        const Dims& expected) {
  CHECK(got == expected, op, ": ", argument, ": got shape ", got, ", expected ", expected);
}

}  // namespace torchext
