// The gradient of a convolution's input on the CPU: for each residue of its rows and columns modulo
// the stride, a product (../product.h) with the taps that reach them.
#include "../../op/conv2d.h"
#include "../depthwise.h"
#include "../dots.h"
#include "operands.h"

namespace torchext {

void launch(const cpu::Product& p, const Queue&);
void launch(const cpu::Depthwise& p, const Queue&);
void launch(const cpu::Combinations& p, const Queue&);

namespace {

// The taps with which outputs reach the inputs at `residue` modulo the stride, along one axis:
// input residue + q * stride gets output q + shift through each tap, shifts ascending.
struct Reach {
  std::vector<int64_t> taps, shifts;
  int64_t residue, inputs;
};
std::vector<Reach> reaches_of(const Window& window, int64_t size) {
  std::vector<Reach> reaches;
  for (int64_t residue = 0; residue < min_of(window.stride, size); ++residue) {
    Reach reach{{}, {}, residue, (size - residue - 1) / window.stride + 1};
    for (int64_t tap = window.kernel; tap-- > 0;) {
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

// Whether each tap's output follows that of the tap before.
bool adjacent(const std::vector<Reach>& reaches) {
  for (const Reach& reach : reaches) {
    for (size_t i = 1; i < reach.shifts.size(); ++i) {
      if (reach.shifts[i] != reach.shifts[i - 1] + 1) return false;
    }
  }
  return true;
}

// How far beyond [0, outputs) the shifted outputs of all residues reach.
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

// Whether rows of weights lie in one piece.
bool rows_adjacent(const cpu::Panels& p) { return p.groups == 1 && p.segments == 1 && p.w_n == 1; }

// A linear layer of few rows.
bool launch_combinations(const cpu::Product& p, const cpu::Panels& panels) {
  if (!rows_adjacent(panels) || p.images * p.rows != 1 || p.columns > cpu::kFewRows || p.y_n != 1 ||
      p.bias != nullptr) {
    return false;
  }
  launch(cpu::Combinations{p.dtype, p.columns, p.N, p.K, at_f(p.a, p.dtype, p.a_segment[0]),
                           at(panels.w, p.dtype, panels.w_segment[0]), p.y, p.a_column, panels.w_k,
                           p.y_column, false},
         Queue{});
  return true;
}

// Few pixels read each weight but once or twice: then they are read where they are.
bool use_in_place(cpu::Product& p, const cpu::Panels& panels) {
  const int64_t columns = panel_columns(p.dtype), pixels = p.images * p.rows * p.columns;
  if (!rows_adjacent(panels) || !is_computed_in(panels.dtype) || pixels > 28 ||
      panels.N % columns != 0) {
    return false;
  }
  p.b = at(panels.w, panels.dtype, panels.w_segment[0]);
  p.b_row = panels.w_k;
  p.b_panel = columns;
  return true;
}

// The taps of one residue: where they lie in the gradient, in the weight, and their shifts.
struct Taps {
  std::vector<int64_t> x, w, rows, columns;
};

// A filter's weight as [tap][output of a group][channel].
Laid lay_out_turned_taps(const Conv2dBackwardInput& p) {
  if (is_depthwise(p)) return lay_out_taps(p, p.weight, p.w_stride);
  const int64_t group = p.C / p.groups, row = p.w.kernel * group * p.C;
  auto turned = std::make_unique<Scratch>(p.dtype, p.h.kernel, row);
  const Strides& s = p.w_stride;
  for (int64_t i = 0; i < p.h.kernel; ++i) {
    cpu::Image image = plain_image(p.dtype, p.w.kernel, group, group, p.groups,
                                   at(p.weight, p.dtype, i * s.h), {s.w, s.c, s.n, group * s.n});
    image.to = at_f(turned->get(), p.dtype, i * row);
    launch(image, Queue{});
  }
  return {turned->get(), row, group * p.C, p.C, 0, std::move(turned)};
}

void launch_filter(const Conv2dBackwardInput& p, const std::vector<Reach>& rows,
                   const std::vector<Reach>& columns) {
  cpu::Image image = gated_gradient(p, p.grad_y, p.grad_y_stride, p.y, p.y_stride, p.activation);
  const bool bare = p.h.kernel * p.w.kernel <= cpu::kMostBorderTaps && readable_in_place(image);
  const Margin above = bare ? Margin{} : margin_of(rows, p.OH);
  const Margin beside = bare ? Margin{} : margin_of(columns, p.OW);
  add_margins(image, above, beside);
  const Laid grad = lay_out(image, true);
  const Laid weight = lay_out_turned_taps(p);
  const int64_t group = p.C / p.groups;
  const Strides& xs = p.grad_x_stride;
  for (const Reach& row : rows) {
    for (const Reach& column : columns) {
      Taps taps;
      for (size_t i = 0; i < row.taps.size(); ++i) {
        for (size_t j = 0; j < column.taps.size(); ++j) {
          taps.x.push_back((row.shifts[i] + above.before) * grad.row +
                           (column.shifts[j] + beside.before) * grad.column);
          taps.w.push_back((row.taps[i] * p.w.kernel + column.taps[j]) * group * p.C);
          taps.rows.push_back(row.shifts[i]);
          taps.columns.push_back(column.shifts[j]);
        }
      }
      cpu::Depthwise filter{};
      filter.dtype = p.dtype;
      filter.group = group;
      filter.N = p.N, filter.C = p.C, filter.OH = row.inputs, filter.OW = column.inputs;
      filter.taps = static_cast<int64_t>(taps.x.size());
      filter.x = grad.data;
      filter.x_image = grad.n, filter.x_row = grad.row, filter.x_column = grad.column;
      filter.x_tap = taps.x.data();
      const bool threes = column.taps.size() == 3 && p.w.stride == 1 && p.w.dilation == 1;
      filter.threes = threes ? grad.column : 0;
      filter.w = weight.data, filter.w_tap = taps.w.data();
      filter.bias = p.bias;
      filter.y = at(p.grad_x, p.dtype, row.residue * xs.h + column.residue * xs.w);
      filter.y_stride = {xs.n, xs.c, p.h.stride * xs.h, p.w.stride * xs.w};
      if (bare) {
        filter.tap_h = taps.rows.data(), filter.tap_w = taps.columns.data();
        filter.step_h = filter.step_w = 1;
        filter.H = p.OH, filter.W = p.OW;
      }
      launch(filter, Queue{});
    }
  }
}

// Windows beside each other that don't overlap and leave no gap, whose pixels and taps lie alike:
// the inputs of a row of taps are columns of one product.
bool is_row_of_patches(const Conv2dBackwardInput& p) {
  const Window& w = p.w;
  const Strides &xs = p.grad_x_stride, &ws = p.w_stride;
  return w.kernel == w.stride && w.dilation == 1 && w.padding == 0 && p.W == p.OW * w.stride &&
         p.groups == 1 && p.bias == nullptr && xs.c == 1 && xs.w == p.C && ws.c == 1 && ws.w == p.C;
}

}  // namespace

void launch(const Conv2dBackwardInput& p, const Queue&) {
  const std::vector<Reach> rows = reaches_of(p.h, p.H);
  std::vector<Reach> columns = reaches_of(p.w, p.W);
  if (is_filter(p)) return launch_filter(p, rows, columns);
  int64_t N = p.C / p.groups;
  if (is_row_of_patches(p)) {
    N *= p.w.kernel;
    columns = {Reach{{0}, {0}, 0, p.OW}};
  }
  // Where the taps of a row are adjacent in the gradient, they are one segment.
  const int64_t K = p.O / p.groups;
  const bool merged = K > 1 && adjacent(columns);
  Margin above = margin_of(rows, p.OH), beside = margin_of(columns, p.OW);
  const bool padded = above.before + above.after + beside.before + beside.after > 0;
  cpu::Image image = gated_gradient(p, p.grad_y, p.grad_y_stride, p.y, p.y_stride, p.activation);
  const bool bordered = padded && p.groups == 1 && use_without_padding(image, merged);
  if (bordered) above = beside = {};
  add_margins(image, above, beside);
  const Laid grad = lay_out_operand(p, image, true);
  const bool adjacent_taps = merged && grad.column == K;
  const Strides& xs = p.grad_x_stride;
  for (const Reach& row : rows) {
    for (const Reach& column : columns) {
      std::vector<int64_t> w_segments, a_segments;
      for (size_t i = 0; i < row.taps.size(); ++i) {
        for (size_t j = 0; j < column.taps.size(); ++j) {
          w_segments.push_back(row.taps[i] * p.w_stride.h + column.taps[j] * p.w_stride.w);
          if (adjacent_taps && j > 0) continue;
          a_segments.push_back((row.shifts[i] + above.before) * grad.row +
                               (column.shifts[j] + beside.before) * grad.column);
        }
      }
      const int64_t taps = adjacent_taps ? static_cast<int64_t>(column.taps.size()) : 1;
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
                         nullptr,
                         false};
      panels.few_columns = are_few_columns(panels, taps * K);
      cpu::Product product{};
      product.dtype = p.dtype;
      product.groups = p.groups, product.images = p.N;
      product.rows = row.inputs, product.columns = column.inputs;
      product.segments = static_cast<int64_t>(a_segments.size());
      product.K = taps * K, product.N = N;
      product.a = grad.data;
      product.a_group = grad.group, product.a_image = grad.n;
      product.a_row = grad.row, product.a_column = grad.column;
      product.a_segment = a_segments.data();
      if (bordered && product.segments > 0) {
        product.borders = {row.shifts.data(), p.OH, p.OW, column.shifts[0], taps, 1, 1};
      }
      product.bias = p.bias;
      product.y = at(p.grad_x, p.dtype, row.residue * xs.h + column.residue * xs.w);
      product.y_group = N * xs.c, product.y_image = xs.n, product.y_n = xs.c;
      product.y_row = p.h.stride * xs.h, product.y_column = p.w.stride * xs.w;
      product.activation = Activation::none;
      if (!bordered) merge_lines(product);
      if (launch_combinations(product, panels)) continue;
      std::unique_ptr<Scratch> packed;
      if (!use_in_place(product, panels)) {
        packed = std::make_unique<Scratch>(pack(panels));
        use_panels(product, panels);
      }
      launch(product, Queue{});
    }
  }
}

}  // namespace torchext
