// Depthwise and pointwise convolution in one, compiled once per ISA.
#include "separable.h"

#include "filter.h"

namespace torchext::cpu::TORCHEXT_ISA {

void multiply(const Product& p, const ProductPiece& piece);  // product.cpp's

namespace {

// Filters rows of outputs, lines of all images, into the tile, [pixel][channel].
template <class F>
static void filter_pixels(const Depthwise& p, Range lines, Range columns, F* tile) {
  const int64_t width = columns.end - columns.begin;
  for (int64_t line = lines.begin; line < lines.end; ++line) {
    const F* x = static_cast<const F*>(p.x) +
                 (line / p.OH * p.x_image + line % p.OH * p.x_row + columns.begin * p.x_column);
    F* y = tile + (line - lines.begin) * width * p.C;
    filter_row<1, F>(p, line % p.OH, columns, x, nullptr, y);
  }
}

template <class F>
static void separate_pieces(const Separable& p, int64_t begin, int64_t end) {
  const SeparableSplit s = separable_split(p);
  const Depthwise& d = p.depthwise;
  Product product = p.product;
  const int64_t panels = ceil_div(product.N, panel_columns(p.product.dtype));
  F* tile = static_cast<F*>(p.workspace(s.lines * s.columns * d.C * int64_t{sizeof(F)}));
  if (tile == nullptr) {
    *p.out_of_memory = true;
    return;
  }
  int64_t filtered = -1;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t block = index / s.panel_blocks, panel = index % s.panel_blocks * s.panels;
    const int64_t line = block / s.column_blocks * s.lines;
    const int64_t column = block % s.column_blocks * s.columns;
    const Range lines{line, min_of(d.N * d.OH, line + s.lines)};
    const Range columns{column, min_of(d.OW, column + s.columns)};
    if (block != filtered) filter_pixels(d, lines, columns, tile);
    filtered = block;
    // Of several lines a block has all columns: its pixels follow each other.
    const int64_t first = line * d.OW + column;
    ProductPiece piece{0, lines, columns, {panel, min_of(panels, panel + s.panels)}};
    if (product.images * product.rows == 1) {  // so do the results, all of them
      const int64_t pixels = (lines.end - line) * (columns.end - column);
      piece.lines = {0, 1}, piece.columns = {first, first + pixels};
    }
    product.a = tile - first * d.C;
    multiply(product, piece);
  }
}

}  // namespace

void run(const Separable& p, int64_t begin, int64_t end) {
  p.depthwise.dtype == DType::f64 ? separate_pieces<double>(p, begin, end)
                                  : separate_pieces<float>(p, begin, end);
}

}  // namespace torchext::cpu::TORCHEXT_ISA
