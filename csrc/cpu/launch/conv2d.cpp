// conv2d on the CPU as products over images (../product.h), depthwise and of narrow groups as a
// filter.
#include "../../op/conv2d.h"

#include "../depthwise.h"
#include "../dots.h"
#include "conv2d.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::Product& p, const Queue&);
void launch(const cpu::Depthwise& p, const Queue&);
void launch(const cpu::Dots& p, const Queue&);

namespace {

// The launches of a convolution, one after the other: of a few images each, or of all.
template <class Launch>
void for_parts(int64_t images, const Parts& parts, Launch launch) {
  const int64_t step = parts.done ? max_of(int64_t{1}, parts.images) : images;
  for (int64_t begin = 0; begin < images; begin += step) {
    const int64_t end = min_of(images, begin + step);
    launch(begin, end);
    if (parts.done) parts.done(begin, end);
  }
}

void launch_filter(const Conv2d& p, const Parts& parts) {
  const FilterInput x(p, p.x, p.x_stride, true);
  const Laid w = lay_out_taps(p, p.weight, p.w_stride);
  cpu::Depthwise filter{};
  x.set(filter);
  filter.x_stored = x.is_stored();
  filter.w = w.data;
  filter.bias = p.bias, filter.residual = p.residual, filter.y = p.y;
  filter.y_stride = p.y_stride, filter.residual_stride = p.residual_stride;
  filter.activation = p.activation;
  filter.scale = p.scale, filter.shift = p.shift;
  const void* images = filter.x;
  for_parts(p.N, parts, [&](int64_t begin, int64_t end) {
    filter.N = end - begin;
    const int64_t first = begin * filter.x_image;
    filter.x = x.is_stored() ? at(images, p.dtype, first) : at_f(images, p.dtype, first);
    filter.y = at(p.y, p.dtype, begin * p.y_stride.n);
    if (p.residual) filter.residual = at(p.residual, p.dtype, begin * p.residual_stride.n);
    launch(filter, Queue{});
  });
}

// A linear layer of few rows whose weights can be read where they are.
bool is_few_dots(const Conv2d& p) {
  const bool point = p.h.kernel * p.w.kernel == 1 && p.groups == 1 && p.panels == nullptr;
  const bool row = p.scale == nullptr && p.N == 1 && p.H == 1 && p.OH == 1 && p.OW == p.W &&
                   p.W <= cpu::kFewRows;
  return point && row && p.x_stride.c == 1 && p.w_stride.c == 1 && p.y_stride.c == 1 &&
         (p.residual == nullptr || p.residual_stride.c == 1);
}

// Whether its products are of pairs of channels: as the panels are, or wherever they can be.
bool is_of_pairs(const Conv2d& p) {
  if (p.panels != nullptr) return p.pairs;
  const int64_t channels = p.C / p.groups;
  return takes_pairs() && p.dtype == DType::bf16 && channels % 2 == 0 &&
         p.O / p.groups > cpu::kFewColumns;
}

}  // namespace

void launch(const Conv2d& p, const Queue&) { launch_parts(p, {}); }

void launch_parts(const Conv2d& p, const Parts& parts) {
  if (is_filter(p) && p.panels == nullptr) return launch_filter(p, parts);
  if (is_few_dots(p)) {
    launch(cpu::Dots{p.dtype, p.W, p.O, p.C, p.x, p.weight, p.bias, p.residual, p.y, p.x_stride.w,
                     p.w_stride.n, p.residual_stride.w, p.y_stride.w, p.activation},
           Queue{});
    if (parts.done) parts.done(0, p.N);
    return;
  }
  const bool pairs = is_of_pairs(p);
  Conv2dShape counted = p;  // its channels, as products do
  if (pairs) counted.C /= 2;
  const int64_t channels = counted.C / p.groups;
  cpu::Image image = padded_input(p, p.x, p.x_stride);
  image.kept = pairs;
  const bool padded = image.top + image.left > 0;
  const bool bordered =
      padded && p.groups == 1 && use_without_padding(image, has_adjacent_taps(counted));
  Laid x = lay_out_operand(p, image, true);
  if (pairs) x = in_pairs(std::move(x));
  Segments segments = segments_of(counted, x);
  std::vector<int64_t> tap_rows;
  if (bordered) {
    for (int64_t i = 0; i < p.h.kernel; ++i) {
      tap_rows.push_back(i * p.h.dilation - p.h.padding);
      segments.offsets[i] -= p.h.padding * x.row + p.w.padding * x.column;
    }
  }
  const std::vector<int64_t> w_segments = tap_offsets(p, p.w_stride.h, p.w_stride.w);
  const int64_t N = p.O / p.groups;
  cpu::Panels panels{p.dtype,
                     p.groups,
                     N,
                     static_cast<int64_t>(w_segments.size()),
                     channels,
                     p.weight,
                     N * p.w_stride.n,
                     p.w_stride.n,
                     p.w_stride.c,
                     w_segments.data(),
                     nullptr,
                     false,
                     pairs};
  panels.few_columns = p.panels == nullptr && are_few_columns(panels, segments.length);
  const auto scratch = pack_or_use(panels, p.panels);

  cpu::Product product{};
  product.dtype = p.dtype;
  product.groups = p.groups, product.images = p.N, product.rows = p.OH, product.columns = p.OW;
  product.segments = static_cast<int64_t>(segments.offsets.size());
  product.K = segments.length, product.N = N;
  product.a = x.data;
  product.a_group = x.group, product.a_image = x.n;
  product.a_row = p.h.stride * x.row, product.a_column = p.w.stride * x.column;
  product.a_segment = segments.offsets.data();
  if (bordered) {
    product.borders = {tap_rows.data(), p.H, p.W, -p.w.padding, p.w.kernel, p.h.stride, p.w.stride};
  }
  use_panels(product, panels);
  product.bias = p.bias, product.scale = p.scale, product.shift = p.shift;
  const Strides &ys = p.y_stride, &rs = p.residual_stride;
  product.y_group = N * ys.c, product.y_image = ys.n, product.y_row = ys.h;
  product.y_column = ys.w, product.y_n = ys.c;
  product.residual_group = N * rs.c, product.residual_image = rs.n, product.residual_row = rs.h;
  product.residual_column = rs.w, product.residual_n = rs.c;
  product.activation = p.activation;
  for_parts(p.N, parts, [&](int64_t begin, int64_t end) {
    cpu::Product part = product;
    part.images = end - begin;
    part.a = at_f(x.data, p.dtype, begin * x.n);
    part.y = at(p.y, p.dtype, begin * ys.n);
    if (p.residual) part.residual = at(p.residual, p.dtype, begin * rs.n);
    if (!bordered) merge_lines(part);
    launch(part, Queue{});
  });
}

}  // namespace torchext
