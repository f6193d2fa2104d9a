// conv2d on the CPU as products over images (../product.h). The gradient of x is, for each residue
// of its rows and columns modulo the stride, a product with the taps that reach them; the gradient
// of w a sum of outer products over pixels.
#include "../../op/conv2d.h"

#include "../depthwise.h"
#include "../dots.h"
#include "../outer.h"
#include "conv2d.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::Product& p, void*);
void launch(const cpu::Outer& p, void*);
void launch(const cpu::OuterSums& p, void*);
void launch(const cpu::ColumnSums& p, void*);
void launch(const cpu::Depthwise& p, void*);
void launch(const cpu::DepthwiseWeight& p, void*);
void launch(const cpu::Dots& p, void*);

namespace {

// Few pixels read each weight but once or twice: then they are read where they are.
bool use_in_place(cpu::Product& p, const cpu::Panels& panels) {
  const int64_t columns = panel_columns(p.dtype), pixels = p.images * p.rows * p.columns;
  const bool computed = p.dtype == DType::f32 || p.dtype == DType::f64;
  if (!computed || pixels > 28 || panels.groups != 1 || panels.segments != 1 || panels.w_n != 1 ||
      panels.N % columns != 0) {
    return false;
  }
  p.b = at(panels.w, panels.dtype, panels.w_segment[0]);
  p.b_row = panels.w_k;
  p.b_panel = columns;
  return true;
}

bool is_depthwise(const Conv2dShape& p) { return p.groups == p.C && p.groups == p.O; }

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

void launch_depthwise(const Conv2d& p, const Parts& parts) {
  const FilterInput x(p, p.x, p.x_stride);
  const Laid w = lay_out_taps(p, p.weight, p.w_stride);
  cpu::Depthwise filter{};
  x.set(filter);
  filter.w = w.data;
  filter.bias = p.bias, filter.residual = p.residual, filter.y = p.y;
  filter.y_stride = p.y_stride, filter.residual_stride = p.residual_stride;
  filter.activation = p.activation;
  filter.scale = p.scale, filter.shift = p.shift;
  const void* images = filter.x;
  for_parts(p.N, parts, [&](int64_t begin, int64_t end) {
    filter.N = end - begin;
    filter.x = at_f(images, p.dtype, begin * filter.x_image);
    filter.y = at(p.y, p.dtype, begin * p.y_stride.n);
    if (p.residual) filter.residual = at(p.residual, p.dtype, begin * p.residual_stride.n);
    launch(filter, nullptr);
  });
}

// A linear layer of few rows whose weights can be read where they are.
bool is_few_dots(const Conv2d& p) {
  const bool point = p.h.kernel * p.w.kernel == 1 && p.groups == 1;
  const bool row = p.scale == nullptr && p.N == 1 && p.H == 1 && p.OH == 1 && p.OW == p.W &&
                   p.W <= cpu::kFewRows;
  return point && row && p.x_stride.c == 1 && p.w_stride.c == 1 && p.y_stride.c == 1 &&
         (p.residual == nullptr || p.residual_stride.c == 1);
}

}  // namespace

void launch(const Conv2d& p, void*) { launch_parts(p, {}); }

void launch_parts(const Conv2d& p, const Parts& parts) {
  if (is_depthwise(p)) return launch_depthwise(p, parts);
  if (is_few_dots(p)) {
    launch(cpu::Dots{p.dtype, p.W, p.O, p.C, p.x, p.weight, p.bias, p.residual, p.y, p.x_stride.w,
                     p.w_stride.n, p.residual_stride.w, p.y_stride.w, p.activation},
           nullptr);
    if (parts.done) parts.done(0, p.N);
    return;
  }
  const Laid x = lay_out(padded_input(p, p.x, p.x_stride), true);
  const Segments segments = segments_of(p, x);
  std::vector<int64_t> w_segments;
  for (int64_t i = 0; i < p.h.kernel; ++i) {
    for (int64_t j = 0; j < p.w.kernel; ++j) {
      w_segments.push_back(i * p.w_stride.h + j * p.w_stride.w);
    }
  }
  const int64_t N = p.O / p.groups;
  cpu::Panels panels{p.dtype,
                     p.groups,
                     N,
                     static_cast<int64_t>(w_segments.size()),
                     p.C / p.groups,
                     p.weight,
                     N * p.w_stride.n,
                     p.w_stride.n,
                     p.w_stride.c,
                     w_segments.data(),
                     nullptr};
  const Scratch packed = pack(panels);

  cpu::Product product{};
  product.dtype = p.dtype;
  product.groups = p.groups, product.images = p.N, product.rows = p.OH, product.columns = p.OW;
  product.segments = static_cast<int64_t>(segments.offsets.size());
  product.K = segments.length, product.N = N;
  product.a = x.data;
  product.a_group = p.C / p.groups, product.a_image = x.n;
  product.a_row = p.h.stride * x.row, product.a_column = p.w.stride * x.column;
  product.a_segment = segments.offsets.data();
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
    merge_lines(part);
    launch(part, nullptr);
  });
}

namespace {

// The taps with which outputs reach the inputs at `residue` modulo the stride, along one axis:
// input residue + q * stride gets output q + shift through each tap.
struct Reach {
  std::vector<int64_t> taps, shifts;
  int64_t residue, inputs;
};
std::vector<Reach> reaches_of(const Window& window, int64_t size) {
  std::vector<Reach> reaches;
  for (int64_t residue = 0; residue < min_of(window.stride, size); ++residue) {
    Reach reach{{}, {}, residue, (size - residue - 1) / window.stride + 1};
    for (int64_t tap = 0; tap < window.kernel; ++tap) {
      const int64_t distance = residue + window.padding - tap * window.dilation;
      if (distance % window.stride == 0) {
        reach.taps.push_back(tap);
        reach.shifts.push_back(distance / window.stride);
      }
    }
    reaches.push_back(std::move(reach));
  }
  return reaches;
}

// How far beyond [0, outputs) the shifted outputs of all residues reach.
struct Margin {
  int64_t before = 0, after = 0;
};
Margin margin_of(const std::vector<Reach>& reaches, int64_t outputs) {
  Margin margin;
  for (const Reach& reach : reaches) {
    for (const int64_t shift : reach.shifts) {
      margin.before = max_of(margin.before, -shift);
      margin.after = max_of(margin.after, reach.inputs + shift - outputs);
    }
  }
  return margin;
}

cpu::Image gated_gradient(const Conv2dShape& p, const void* grad_y, const Strides& grad_y_stride,
                          const void* y, const Strides& y_stride, Activation activation,
                          Margin rows = {}, Margin columns = {}) {
  cpu::Image image{};
  image.dtype = p.dtype;
  image.N = p.N, image.C = p.O, image.H = p.OH, image.W = p.OW;
  image.rows = rows.before + p.OH + rows.after;
  image.columns = columns.before + p.OW + columns.after;
  image.top = rows.before, image.left = columns.before;
  image.step_h = image.step_w = 1;
  image.x = grad_y, image.x_stride = grad_y_stride;
  image.y = y, image.y_stride = y_stride;
  image.activation = activation;
  return image;
}

}  // namespace

void launch(const Conv2dBackwardInput& p, void*) {
  const std::vector<Reach> rows = reaches_of(p.h, p.H), columns = reaches_of(p.w, p.W);
  Margin above = margin_of(rows, p.OH), beside = margin_of(columns, p.OW);
  const bool bare = is_depthwise(p) && p.h.kernel * p.w.kernel <= cpu::kMostBorderTaps &&
                    readable_in_place(gated_gradient(p, p.grad_y, p.grad_y_stride, p.y, p.y_stride,
                                                     p.activation));
  if (bare) above = beside = {};
  const Laid grad = lay_out(
      gated_gradient(p, p.grad_y, p.grad_y_stride, p.y, p.y_stride, p.activation, above, beside),
      true);
  const int64_t N = p.C / p.groups, K = p.O / p.groups;
  const Laid taps = is_depthwise(p) ? lay_out_taps(p, p.weight, p.w_stride) : Laid{};
  for (const Reach& row : rows) {
    for (const Reach& column : columns) {
      std::vector<int64_t> w_segments, w_taps, a_segments, tap_rows, tap_columns;
      for (size_t i = 0; i < row.taps.size(); ++i) {
        for (size_t j = 0; j < column.taps.size(); ++j) {
          w_segments.push_back(row.taps[i] * p.w_stride.h + column.taps[j] * p.w_stride.w);
          a_segments.push_back((row.shifts[i] + above.before) * grad.row +
                               (column.shifts[j] + beside.before) * grad.column);
          w_taps.push_back((row.taps[i] * p.w.kernel + column.taps[j]) * p.C);
          tap_rows.push_back(row.shifts[i]);
          tap_columns.push_back(column.shifts[j]);
        }
      }
      const Strides& xs = p.grad_x_stride;
      void* grad_x = at(p.grad_x, p.dtype, row.residue * xs.h + column.residue * xs.w);
      if (is_depthwise(p)) {
        cpu::Depthwise filter{};
        filter.dtype = p.dtype;
        filter.N = p.N, filter.C = p.C, filter.OH = row.inputs, filter.OW = column.inputs;
        filter.taps = static_cast<int64_t>(w_taps.size());
        filter.x = grad.data;
        filter.x_image = grad.n, filter.x_row = grad.row, filter.x_column = grad.column;
        filter.x_tap = a_segments.data();
        filter.w = taps.data, filter.w_tap = w_taps.data();
        filter.bias = p.bias;
        filter.y = grad_x;
        filter.y_stride = {xs.n, xs.c, p.h.stride * xs.h, p.w.stride * xs.w};
        if (bare) {
          filter.tap_h = tap_rows.data(), filter.tap_w = tap_columns.data();
          filter.step_h = filter.step_w = 1;
          filter.H = p.OH, filter.W = p.OW;
        }
        launch(filter, nullptr);
        continue;
      }
      cpu::Panels panels{p.dtype,
                         p.groups,
                         N,
                         static_cast<int64_t>(w_segments.size()),
                         K,
                         p.weight,
                         K * p.w_stride.n,
                         p.w_stride.c,
                         p.w_stride.n,
                         w_segments.data(),
                         nullptr};
      cpu::Product product{};
      product.dtype = p.dtype;
      product.groups = p.groups, product.images = p.N;
      product.rows = row.inputs, product.columns = column.inputs;
      product.segments = panels.segments, product.K = K, product.N = N;
      product.a = grad.data;
      product.a_group = K, product.a_image = grad.n;
      product.a_row = grad.row, product.a_column = grad.column;
      product.a_segment = a_segments.data();
      std::unique_ptr<Scratch> packed;
      if (!use_in_place(product, panels)) {
        packed = std::make_unique<Scratch>(pack(panels));
        use_panels(product, panels);
      }
      product.bias = p.bias;
      product.y = grad_x;
      product.y_group = N * xs.c, product.y_image = xs.n, product.y_n = xs.c;
      product.y_row = p.h.stride * xs.h, product.y_column = p.w.stride * xs.w;
      product.activation = Activation::none;
      merge_lines(product);
      launch(product, nullptr);
    }
  }
}

namespace {

void sum_gradient(const Conv2dBackwardWeight& p, const Laid& grad) {
  if (p.grad_bias == nullptr) return;
  launch(cpu::ColumnSums{p.dtype, p.N, p.OH, p.OW, p.O, grad.data, grad.n, grad.row, grad.column,
                         p.grad_bias},
         nullptr);
}

void launch_depthwise(const Conv2dBackwardWeight& p, const Laid& grad) {
  const int64_t taps = p.h.kernel * p.w.kernel;
  const DType computed = p.dtype == DType::f64 ? DType::f64 : DType::f32;
  const FilterInput x(p, p.x, p.x_stride);
  cpu::DepthwiseWeight weight{};
  x.set(weight);
  weight.grad = grad.data;
  weight.grad_image = grad.n, weight.grad_row = grad.row, weight.grad_column = grad.column;
  weight.blocks = max_of(int64_t{1}, min_of(p.N * p.OH, cpu::kMostWeightBlocks));
  const Scratch block_sums(p.dtype, weight.blocks, taps, p.C), sums(p.dtype, taps, p.C);
  weight.sums = block_sums.get();
  launch(weight, nullptr);
  launch(cpu::ColumnSums{computed, 1, 1, weight.blocks, taps * p.C, weight.sums, 0, 0, taps * p.C,
                         sums.get()},
         nullptr);
  std::vector<int64_t> to_taps;
  for (int64_t i = 0; i < p.h.kernel; ++i) {
    for (int64_t j = 0; j < p.w.kernel; ++j) {
      to_taps.push_back(i * p.w_stride.h + j * p.w_stride.w);
    }
  }
  launch(cpu::OuterSums{p.dtype, 1, 1, p.C, taps, p.C, sums.get(), p.grad_weight, 0, p.w_stride.n,
                        0, to_taps.data()},
         nullptr);
}

}  // namespace

void launch(const Conv2dBackwardWeight& p, void*) {
  const cpu::Image gradient =
      gated_gradient(p, p.grad_y, p.grad_y_stride, p.y, p.y_stride, p.activation);
  if (is_depthwise(p)) {
    const Laid grad = lay_out(gradient, true);
    sum_gradient(p, grad);
    launch_depthwise(p, grad);
    return;
  }
  // Tiles read whole vectors beyond the last channel: in place only where none is cut.
  const int64_t columns = panel_columns(p.dtype);
  const Laid grad = lay_out(gradient, p.O / p.groups % columns == 0);
  const Laid x = lay_out(padded_input(p, p.x, p.x_stride), p.C / p.groups % columns == 0);
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
  outer.b_group = channels, outer.b_image = x.n;
  outer.b_row = p.h.stride * x.row, outer.b_column = p.w.stride * x.column;
  outer.b_segment = segments.offsets.data();
  std::vector<int64_t> to_segments;
  for (int64_t i = 0; i < p.h.kernel; ++i) {
    for (int64_t j = 0; j < (segments.merged ? 1 : p.w.kernel); ++j) {
      to_segments.push_back(i * p.w_stride.h + j * p.w_stride.w);
    }
  }
  const bool rows_adjacent = p.w_stride.c == 1 && (!segments.merged || p.w_stride.w == p.C);
  if (rows_adjacent && outer.segments == 1 && (p.dtype == DType::f32 || p.dtype == DType::f64)) {
    outer.sums = p.grad_weight;
    outer.sums_m = p.w_stride.n, outer.sums_group = M * outer.sums_m;
    launch(outer, nullptr);
    return;
  }
  const Scratch sums(p.dtype, p.groups * M, outer.segments, outer.N);
  outer.sums = sums.get();
  outer.sums_m = outer.N;
  outer.sums_segment = M * outer.N;
  outer.sums_group = outer.segments * outer.sums_segment;
  launch(outer, nullptr);
  launch(
      cpu::OuterSums{p.dtype, p.groups, M, outer.N, outer.segments, channels, outer.sums,
                     p.grad_weight, p.w_stride.n, p.w_stride.c, p.w_stride.w, to_segments.data()},
      nullptr);
}

}  // namespace torchext
