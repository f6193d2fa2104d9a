// The operands of the products that convolutions are made of, laid out for them.
#pragma once

#include <memory>
#include <vector>

#include "../../op/conv2d.h"
#include "../depthwise.h"
#include "scratch.h"

namespace torchext {

void launch(const cpu::Image& p, const Queue&);
void launch(const cpu::Panels& p, const Queue&);

using cpu::panel_columns;
using cpu::Scratch;

inline const void* at(const void* p, DType dtype, int64_t element) {
  const int64_t size = dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
  return static_cast<const char*>(p) + element * size;
}
inline void* at(void* p, DType dtype, int64_t element) {
  return const_cast<void*>(at(const_cast<const void*>(p), dtype, element));
}

// Of numbers of the type computed in; null stays null.
inline const void* at_f(const void* p, DType dtype, int64_t element) {
  return p ? static_cast<const char*>(p) + element * cpu::compute_size(dtype) : nullptr;
}
inline void* at_f(void* p, DType dtype, int64_t element) {
  return const_cast<void*>(at_f(const_cast<const void*>(p), dtype, element));
}

// A tensor as an image that products can read: in place, or laid out in scratch memory.
struct Laid {
  const void* data;
  int64_t n, row, column, group;  // strides; group: of lay_out_operand() only
  std::unique_ptr<Scratch> scratch;
};

// Whether it is stored as it is computed in.
inline bool is_computed_in(DType dtype) { return dtype == compute_dtype(dtype); }

inline bool readable_in_place(const cpu::Image& p) {
  const bool plain =
      p.groups == 1 && p.top == 0 && p.left == 0 && p.rows == p.H && p.columns == p.W;
  const Strides& s = p.x_stride;
  const bool whole_pairs = s.n % 2 == 0 && s.h % 2 == 0 && s.w % 2 == 0;
  const bool typed = p.kept ? whole_pairs : is_computed_in(p.dtype);
  return plain && p.y == nullptr && typed && s.c == 1;
}

// x as it is: nothing around its pixels or between them.
inline cpu::Image plain_image(DType dtype, int64_t N, int64_t C, int64_t H, int64_t W,
                              const void* x, const Strides& stride) {
  cpu::Image image{};
  image.dtype = dtype;
  image.N = N, image.C = C, image.groups = 1;
  image.H = image.rows = H, image.W = image.columns = W;
  image.step_h = image.step_w = 1;
  image.x = x, image.x_stride = stride;
  return image;
}

inline cpu::Image without_padding(cpu::Image image) {
  image.top = image.left = 0, image.rows = image.H, image.columns = image.W;
  return image;
}

inline Laid lay_out(cpu::Image p, bool in_place) {
  if (in_place && readable_in_place(p)) {
    return {p.x, p.x_stride.n, p.x_stride.h, p.x_stride.w, 0, nullptr};
  }
  auto scratch = std::make_unique<Scratch>(p.dtype, p.N, p.rows, p.columns, p.kept ? p.C / 2 : p.C);
  p.to = scratch->get();
  launch(p, Queue{});
  const int64_t C = p.C / p.groups;
  return {p.to, p.rows * p.columns * p.C, p.columns * C, C, 0, std::move(scratch)};
}

// The image as the products of a convolution read it. Of windows, each group's channels are laid
// out as an image of its own: a pixel's are then adjacent to its neighbour's, and share no set of
// L1 with them (pixels 4 KB apart are all in one). One tap reads each pixel once: a copy would not
// pay.
inline Laid lay_out_operand(const Conv2dShape& p, cpu::Image image, bool in_place) {
  if (p.groups > 1 && p.h.kernel * p.w.kernel > 1) image.groups = p.groups;
  Laid x = lay_out(image, in_place);
  x.group = image.groups > 1 ? image.rows * x.row : image.C / p.groups;
  return x;
}

// The image as pairs of channels, which its strides count then.
inline Laid in_pairs(Laid x) {
  x.n /= 2, x.row /= 2, x.column /= 2, x.group /= 2;
  return x;
}

// Where the taps of a window lie, in a weight or a dilated image; of each row, only the first tap
// if the others are adjacent to it.
inline std::vector<int64_t> tap_offsets(const Conv2dShape& p, int64_t row, int64_t column,
                                        bool adjacent = false) {
  std::vector<int64_t> offsets;
  for (int64_t i = 0; i < p.h.kernel; ++i) {
    for (int64_t j = 0; j < (adjacent ? 1 : p.w.kernel); ++j) {
      offsets.push_back(i * row + j * column);
    }
  }
  return offsets;
}

// Pixels beside an image along one axis.
struct Margin {
  int64_t before = 0, after = 0;
};

// grad_y, times the activation's derivative where y is given.
inline cpu::Image gated_gradient(const Conv2dShape& p, const void* grad_y,
                                 const Strides& grad_y_stride, const void* y,
                                 const Strides& y_stride, Activation activation) {
  cpu::Image image = plain_image(p.dtype, p.N, p.O, p.OH, p.OW, grad_y, grad_y_stride);
  image.y = y, image.y_stride = y_stride;
  image.activation = activation;
  return image;
}
inline void add_margins(cpu::Image& image, Margin rows, Margin columns) {
  image.rows += rows.before + rows.after, image.columns += columns.before + columns.after;
  image.top += rows.before, image.left += columns.before;
}

// Whether a row of the window's taps can be adjacent in an image.
inline bool has_adjacent_taps(const Conv2dShape& p) {
  return p.C / p.groups > 1 && p.w.dilation == 1;
}

// Where a product's segments lie in an image, and how many adjacent elements each has: the taps of
// a row of the window are one segment if they are adjacent.
struct Segments {
  std::vector<int64_t> offsets;
  int64_t length;
  bool merged;
};
inline Segments segments_of(const Conv2dShape& p, const Laid& x) {
  Segments s;
  const int64_t channels = p.C / p.groups;
  s.merged = has_adjacent_taps(p) && x.column == channels;
  s.length = s.merged ? p.w.kernel * channels : channels;
  s.offsets = tap_offsets(p, p.h.dilation * x.row, p.w.dilation * x.column, s.merged);
  return s;
}

inline bool is_depthwise(const Conv2dShape& p) { return p.groups == p.C && p.groups == p.O; }

// Whether its results are sums in the lanes of a filter.
inline bool is_filter(const Conv2dShape& p) {
  return is_depthwise(p) || (p.C == p.O && p.groups > 1 && cpu::is_narrow(p.C / p.groups));
}

inline cpu::Image padded_input(const Conv2dShape& p, const void* x, const Strides& x_stride) {
  cpu::Image image = plain_image(p.dtype, p.N, p.C, p.H, p.W, x, x_stride);
  add_margins(image, {p.h.padding, p.h.padding}, {p.w.padding, p.w.padding});
  return image;
}

// The image as it is, where products can leave out what lies beyond its borders.
inline bool use_without_padding(cpu::Image& image, bool adjacent_taps) {
  const cpu::Image bare = without_padding(image);
  if (!adjacent_taps || !readable_in_place(bare) || image.x_stride.w != image.C) return false;
  image = bare;
  return true;
}

// K: of the product's segments, which may be several of the panels'.
inline bool are_few_columns(const cpu::Panels& p, int64_t K) {
  return p.groups == 1 && p.N <= cpu::kFewColumns && K >= panel_columns(p.dtype) / 2;
}

inline Scratch pack(cpu::Panels& p) {
  const int64_t columns = panel_columns(p.dtype);
  Scratch scratch(p.dtype, p.groups * ceil_div(p.N, columns), p.segments, p.K, columns);
  p.to = scratch.get();
  launch(p, Queue{});
  return scratch;
}

// Panels that were packed before, or else the weight's, packed into memory that is returned.
inline std::unique_ptr<Scratch> pack_or_use(cpu::Panels& p, const void* packed) {
  if (packed == nullptr) return std::make_unique<Scratch>(pack(p));
  p.to = const_cast<void*>(packed);
  return nullptr;
}

inline void use_panels(cpu::Product& p, const cpu::Panels& panels) {
  p.b = panels.to, p.few_columns = panels.few_columns, p.pairs = panels.pairs;
  p.b_row = panel_columns(panels.dtype);
  p.b_panel = panels.segments * panels.K * p.b_row;
  p.b_group = ceil_div(panels.N, p.b_row) * p.b_panel;
}

// A filter's weight as [tap][channel of a group][channel]. Depthwise, the taps of a row are turned
// together: they share lines of memory.
inline Laid lay_out_taps(const Conv2dShape& p, const void* weight, const Strides& stride) {
  const cpu::Image image = is_depthwise(p)
                               ? plain_image(p.dtype, 1, p.O, p.h.kernel, p.w.kernel, weight,
                                             {0, stride.n, stride.h, stride.w})
                               : plain_image(p.dtype, p.h.kernel, p.O, p.w.kernel, p.C / p.groups,
                                             weight, {stride.h, stride.n, stride.w, stride.c});
  return lay_out(image, false);
}

// What a filter reads: the image as it is, also `stored` in 16 bits if it takes that, or a padded
// one where it can't be read in place or taps beyond its borders may not be left out.
class FilterInput {
 public:
  FilterInput(const Conv2dShape& p, const void* x, const Strides& stride, bool stored = false,
              bool leaves_out = true)
      : shape_(p) {
    const cpu::Image image = padded_input(p, x, stride), bare = without_padding(image);
    const bool few = leaves_out && p.h.kernel * p.w.kernel <= cpu::kMostBorderTaps;
    stored_ = few && stored && stride.c == 1 && !is_computed_in(p.dtype);
    bare_ = stored_ || (few && readable_in_place(bare));
    x_ = stored_ ? Laid{x, stride.n, stride.h, stride.w, 0, nullptr}
                 : lay_out(bare_ ? bare : image, true);
    for (int64_t i = 0; i < p.h.kernel; ++i) {
      for (int64_t j = 0; j < p.w.kernel; ++j) {
        rows_.push_back(i * p.h.dilation - (bare_ ? p.h.padding : 0));
        columns_.push_back(j * p.w.dilation - (bare_ ? p.w.padding : 0));
        x_taps_.push_back(rows_.back() * x_.row + columns_.back() * x_.column);
        w_taps_.push_back((i * p.w.kernel + j) * p.C * (p.C / p.groups));
      }
    }
  }

  bool is_stored() const { return stored_; }

  // The filter must not outlive this.
  void set(cpu::Filter& filter) const {
    const Conv2dShape& p = shape_;
    filter.dtype = p.dtype;
    filter.N = p.N, filter.C = p.C, filter.OH = p.OH, filter.OW = p.OW;
    filter.group = p.C / p.groups;
    filter.taps = static_cast<int64_t>(x_taps_.size());
    filter.x = x_.data, filter.x_image = x_.n;
    filter.x_row = p.h.stride * x_.row, filter.x_column = p.w.stride * x_.column;
    filter.x_tap = x_taps_.data(), filter.w_tap = w_taps_.data();
    const bool shared = p.w.stride == p.w.dilation || p.w.stride == 2 * p.w.dilation;
    filter.threes = p.w.kernel == 3 && shared ? p.w.dilation * x_.column : 0;
    if (!bare_) return;
    filter.tap_h = rows_.data(), filter.tap_w = columns_.data();
    filter.step_h = p.h.stride, filter.step_w = p.w.stride;
    filter.H = p.H, filter.W = p.W;
  }

 private:
  const Conv2dShape& shape_;
  bool bare_, stored_;
  Laid x_;
  std::vector<int64_t> rows_, columns_, x_taps_, w_taps_;
};

// Pixels that follow each other evenly in every image involved are one line.
inline void merge_lines(cpu::Product& p) {
  const bool residual = p.residual != nullptr;
  if (p.a_row == p.columns * p.a_column && p.y_row == p.columns * p.y_column &&
      (!residual || p.residual_row == p.columns * p.residual_column)) {
    p.columns *= p.rows;
    p.rows = 1;
    p.a_row = p.a_image, p.y_row = p.y_image, p.residual_row = p.residual_image;
    if (p.a_image == p.columns * p.a_column && p.y_image == p.columns * p.y_column &&
        (!residual || p.residual_image == p.columns * p.residual_column)) {
      p.columns *= p.images;
      p.images = 1;
    }
  }
}

}  // namespace torchext
