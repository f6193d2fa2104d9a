// The gradient of a convolution's weight on the CPU: a sum of outer products over pixels
// (../outer.h).
#include "../../op/conv2d.h"
#include "../depthwise.h"
#include "../outer.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::Outer& p, const Queue&);
void launch(const cpu::OuterSums& p, const Queue&);
void launch(const cpu::ColumnSums& p, const Queue&);
void launch(const cpu::DepthwiseWeight& p, const Queue&);

namespace {

void sum_gradient(const Conv2dBackwardWeight& p, const Laid& grad) {
  if (p.grad_bias == nullptr) return;
  launch(cpu::ColumnSums{p.dtype, p.N, p.OH, p.OW, p.O, grad.data, grad.n, grad.row, grad.column,
                         p.grad_bias},
         Queue{});
}

void launch_filter(const Conv2dBackwardWeight& p, const Laid& grad) {
  const int64_t group = p.C / p.groups, taps = p.h.kernel * p.w.kernel;
  // As PyTorch has it, an infinite gradient times padding is NaN, but for depthwise convolutions.
  const FilterInput x(p, p.x, p.x_stride, false, is_depthwise(p));
  cpu::DepthwiseWeight weight{};
  x.set(weight);
  weight.grad = grad.data;
  weight.grad_image = grad.n, weight.grad_row = grad.row, weight.grad_column = grad.column;
  weight.blocks = weight_blocks(weight);
  const int64_t count = taps * group * p.C;
  const Scratch block_sums(p.dtype, weight.blocks, count), sums(p.dtype, count);
  weight.sums = block_sums.get();
  launch(weight, Queue{});
  launch(cpu::ColumnSums{compute_dtype(p.dtype), 1, 1, weight.blocks, count, weight.sums, 0, 0,
                         count, sums.get()},
         Queue{});
  std::vector<int64_t> to;
  for (const int64_t tap : tap_offsets(p, p.w_stride.h, p.w_stride.w)) {
    for (int64_t k = 0; k < group; ++k) to.push_back(tap + k * p.w_stride.c);
  }
  launch(cpu::OuterSums{p.dtype, 1, 1, 1, p.C, taps * group, p.C, sums.get(), p.grad_weight, 0,
                        p.w_stride.n, 0, to.data()},
         Queue{});
}

}  // namespace

void launch(const Conv2dBackwardWeight& p, const Queue&) {
  const cpu::Image gradient =
      gated_gradient(p, p.grad_y, p.grad_y_stride, p.y, p.y_stride, p.activation);
  if (is_filter(p)) {
    const Laid grad = lay_out(gradient, true);
    sum_gradient(p, grad);
    launch_filter(p, grad);
    return;
  }
  // Tiles read whole vectors of one operand, beyond its last channel: in place only if none is cut.
  const int64_t lanes = panel_columns(p.dtype) / 2;
  const bool x_in_vectors = p.C / p.groups % lanes == 0;
  const bool swapped =
      !x_in_vectors && p.O % lanes == 0 && p.groups == 1 && p.h.kernel * p.w.kernel == 1;
  const Laid grad = lay_out(gradient, true);
  const Laid x = lay_out_operand(p, padded_input(p, p.x, p.x_stride), x_in_vectors || swapped);
  const Segments segments = segments_of(p, x);
  const int64_t channels = p.C / p.groups, M = p.O / p.groups;
  sum_gradient(p, grad);
  if (channels == 0) return;
  cpu::Outer outer{};
  outer.dtype = p.dtype;
  outer.groups = p.groups, outer.images = p.N, outer.rows = p.OH, outer.columns = p.OW;
  outer.M = M, outer.N = segments.length;
  outer.segments = static_cast<int64_t>(segments.offsets.size());
  outer.a = grad.data;
  outer.a_group = M, outer.a_image = grad.n, outer.a_row = grad.row, outer.a_column = grad.column;
  outer.b = x.data;
  outer.b_group = x.group, outer.b_image = x.n;
  outer.b_row = p.h.stride * x.row, outer.b_column = p.w.stride * x.column;
  outer.b_segment = segments.offsets.data();
  const std::vector<int64_t> to_segments =
      tap_offsets(p, p.w_stride.h, p.w_stride.w, segments.merged);
  const bool rows_adjacent =
      p.w_stride.c == 1 && (p.w.kernel == 1 || !segments.merged || p.w_stride.w == channels);
  if (swapped) {
    std::swap(outer.M, outer.N), std::swap(outer.a, outer.b);
    std::swap(outer.a_image, outer.b_image);
    std::swap(outer.a_row, outer.b_row), std::swap(outer.a_column, outer.b_column);
  }
  outer.chunks = chunks_of(outer);
  if (!swapped && rows_adjacent && outer.chunks == 1 && outer.segments == 1 &&
      (is_computed_in(p.dtype) || few_pixels(outer))) {
    outer.in_dtype = few_pixels(outer);
    outer.sums = p.grad_weight;
    outer.sums_m = p.w_stride.n, outer.sums_group = M * outer.sums_m;
    launch(outer, Queue{});
    return;
  }
  const Scratch sums(p.dtype, outer.chunks, p.groups * outer.M, outer.segments, outer.N);
  outer.sums = sums.get();
  outer.sums_m = outer.N;
  outer.sums_segment = outer.M * outer.N;
  outer.sums_group = outer.segments * outer.sums_segment;
  outer.sums_chunk = p.groups * outer.sums_group;
  launch(outer, Queue{});
  launch(cpu::OuterSums{p.dtype, outer.chunks, p.groups, outer.M, outer.N, outer.segments,
                        swapped ? outer.N : channels, outer.sums, p.grad_weight,
                        swapped ? p.w_stride.c : p.w_stride.n,
                        swapped ? p.w_stride.n : p.w_stride.c, p.w_stride.w, to_segments.data()},
         Queue{});
}

}  // namespace torchext
