// Matrix products over images, the core of convolution and linear layers, in three steps: inputs
// that can't be read in place are laid out as padded channels-last images of the type computed in,
// weights are packed into panels of columns, and tiles are multiplied:
//   y[g, line, column, n] = epilogue(sum over segments s and k of
//                                    a[g, line, column, s, k] * b[g, s, k, n])
// A line is a row of one image. Plain data; pointers of the computing type F are float, or double
// for float64. Where a CPU multiplies pairs of bf16 (isa.h), a and b can be such pairs: each stands
// for two k's, and K and all strides of a and b count pairs.
#pragma once

#include "../common/activation.h"
#include "pool2d.h"

namespace torchext::cpu {

constexpr int64_t kPanelBytes = 128;  // one row of a panel, for every ISA: 32 floats or 16 doubles
PLAIN int64_t panel_columns(DType dtype) { return dtype == DType::f64 ? 16 : 32; }
PLAIN int64_t compute_size(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

// to[n][g][top + h * step_h][left + w * step_w][c] = x[n, c of group g, h, w] (times the
// activation's derivative where y is given), zeros elsewhere.
struct Image {
  DType dtype;  // of x and y
  int64_t N, C, H, W, rows, columns, groups;
  int64_t top, left, step_h, step_w;
  const void* x;
  Strides x_stride;
  const void* y;  // the activation's result, or null
  Strides y_stride;
  Activation activation;
  void* to;   // F, dense
  bool kept;  // of dtype instead, for pairs
};

// to[g][panel][segment][k][column of the panel] = w[g, n, segment, k], zeros beyond N; of few
// columns, in one group, to[n][segment][k]; of pairs, w[g, n, segment, 2 k] and the next.
struct Panels {
  DType dtype;
  int64_t groups, N, segments, K;
  const void* w;
  int64_t w_group, w_n, w_k;
  const int64_t* w_segment;  // element of each segment
  void* to;
  bool few_columns, pairs;
};

// So few columns are summed along k by whole vectors: a panel would be mostly empty.
constexpr int64_t kFewColumns = 4;

// Which k's of an output's segments lie inside an image of H x W pixels that is read without
// padding: segment s is `taps` adjacent pixels, the first at row oh * step_h + tap_h[s], ascending,
// and column ow * step_w + left.
struct Borders {
  const int64_t* tap_h;  // null: all are inside
  int64_t H, W, left, taps, step_h, step_w;
};

struct Product {
  DType dtype;  // of y, bias and residual
  int64_t groups, images, rows, columns;
  int64_t segments, K, N;
  const void* a;  // F
  int64_t a_group, a_image, a_row, a_column;
  const int64_t* a_segment;
  Borders borders;
  const void* b;  // F: panels, or a matrix of whole panels' width read in place
  int64_t b_group, b_panel, b_row;
  bool few_columns;  // b is [n][segment][k]
  bool pairs;        // of bf16 are a and b
  void* y;
  const void* bias;           // N per group, or null
  const void* residual;       // or null
  const void *scale, *shift;  // F, N per group, for sum * scale + shift; or null
  // Elements; of the residual too.
  int64_t y_group, y_image, y_row, y_column, y_n;
  int64_t residual_group, residual_image, residual_row, residual_column, residual_n;
  Activation activation;
};

// How a product is cut into pieces of similar size: by shape only. A piece has enough pixels to
// make a panel's way from memory worth it, and few enough that they stay in L2; of a small product
// there are still enough pieces for threads to share it evenly.
constexpr int64_t kPiecePixels = 224;  // a multiple of every ISA's rows of a tile but AVX2's
constexpr int64_t kLeastPiecePixels = 24, kEnoughPieces = 16;
struct ProductSplit {
  int64_t lines, line_blocks, columns, column_blocks, panels, panel_blocks;
};
PLAIN ProductSplit product_split(const Product& p) {
  ProductSplit s;
  const int64_t lines = p.images * p.rows, panels = ceil_div(p.N, panel_columns(p.dtype));
  s.columns = p.columns < 2 * kPiecePixels ? max_of(p.columns, int64_t{1}) : kPiecePixels;
  s.column_blocks = ceil_div(p.columns, s.columns);
  s.line_blocks = ceil_div(lines, max_of(int64_t{1}, kPiecePixels / s.columns));
  s.lines = ceil_div(lines, max_of(s.line_blocks, int64_t{1}));
  const int64_t blocks = p.groups * s.line_blocks * s.column_blocks;
  s.panels = panels;
  while (s.panels > 1 && blocks * ceil_div(panels, s.panels) < kEnoughPieces) {
    s.panels = ceil_div(s.panels, 2);
  }
  s.panel_blocks = ceil_div(panels, s.panels);
  while (p.groups * s.line_blocks * s.column_blocks * s.panel_blocks < kEnoughPieces &&
         s.lines * s.columns >= 2 * kLeastPiecePixels) {
    int64_t& count = s.lines > 1 ? s.lines : s.columns;
    count = ceil_div(count, 2);
    s.line_blocks = ceil_div(lines, s.lines), s.column_blocks = ceil_div(p.columns, s.columns);
  }
  return s;
}

struct ProductPiece {
  int64_t group;
  Range lines, columns, panels;
};

PLAIN Split split_of(const Image& p) { return split(p.N * p.rows, p.columns * p.C); }
PLAIN Split split_of(const Panels& p) {
  const int64_t panels = ceil_div(p.N, panel_columns(p.dtype));
  return split(p.groups * panels, p.segments * p.K * panel_columns(p.dtype) * 2);
}
// Few pixels wait for the panel rather than for multiplications.
PLAIN Split split_of(const Product& p) {
  const ProductSplit s = product_split(p);
  return split(p.groups * s.line_blocks * s.column_blocks * s.panel_blocks,
               max_of(s.lines * s.columns, int64_t{4}) * s.panels * 16 * p.segments * p.K);
}

}  // namespace torchext::cpu
