// depthwise_separable on the CPU: the input laid out as for a depthwise convolution, the pointwise
// weights as for a product; norms are scales and shifts of either's sums.
#include "../../op/depthwise_separable.h"

#include <new>

#include "../separable.h"
#include "fold.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::Separable& p, const Queue& queue);

void launch(const DepthwiseSeparable& p, const Queue& queue) {
  const Conv2d &from = p.depthwise, &to = p.pointwise;
  const FilterInput x(from, from.x, from.x_stride);
  const Laid w = lay_out_taps(from, from.weight, from.w_stride);
  const cpu::Folded norm(from.dtype, from.C, p.depthwise_norm);
  const cpu::Folded pointwise_norm(to.dtype, to.O, p.pointwise_norm);

  bool out_of_memory = false;
  cpu::Separable separable{};
  separable.workspace = cpu::thread_memory;
  separable.out_of_memory = &out_of_memory;
  cpu::Depthwise& filter = separable.depthwise;
  x.set(filter);
  filter.dtype = compute_dtype(from.dtype);  // of a tile
  filter.w = w.data;
  filter.y_stride = {0, 1, 0, from.C};
  filter.activation = from.activation;
  filter.scale = norm.scale(), filter.shift = norm.shift();

  const int64_t no_offset = 0;
  cpu::Panels panels{to.dtype,      1,          to.O,    1,    to.C, to.weight, 0, to.w_stride.n,
                     to.w_stride.c, &no_offset, nullptr, false};
  const auto scratch = pack_or_use(panels, to.panels);
  cpu::Product& product = separable.product;
  product.dtype = to.dtype;
  product.groups = 1, product.images = to.N, product.rows = to.OH, product.columns = to.OW;
  product.segments = 1, product.K = to.C, product.N = to.O;
  product.a_segment = &no_offset;
  product.a_column = to.C, product.a_row = to.OW * to.C, product.a_image = to.OH * product.a_row;
  use_panels(product, panels);
  const Strides &ys = to.y_stride, &rs = to.residual_stride;
  product.y = to.y, product.residual = to.residual;
  product.y_image = ys.n, product.y_row = ys.h, product.y_column = ys.w, product.y_n = ys.c;
  product.residual_image = rs.n, product.residual_row = rs.h;
  product.residual_column = rs.w, product.residual_n = rs.c;
  product.scale = pointwise_norm.scale(), product.shift = pointwise_norm.shift();
  product.activation = to.activation;
  cpu::Product merged = product;
  merge_lines(merged);
  if (merged.images * merged.rows == 1) product = merged;
  launch(separable, queue);
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace torchext
