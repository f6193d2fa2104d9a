// A depthwise convolution whose results go straight into a pointwise one: a tile of pixels at a
// time is filtered into memory that stays in the caches, and multiplied from there.
#pragma once

#include "depthwise.h"

namespace torchext::cpu {

struct Separable {
  Depthwise depthwise;                // of the type computed in; y is a tile's
  Product product;                    // a is the tile
  void* (*workspace)(int64_t bytes);  // a thread's own memory; null where there is none left
  bool* out_of_memory;                // kernels don't throw
};

// Pieces are blocks of pixels, and where those are few, of panels too: by shape only. A thread
// filters a block of pixels once for all of its panels.
struct SeparableSplit {
  int64_t lines, line_blocks, columns, column_blocks, panels, panel_blocks;
};
constexpr int64_t kTileBytes = 1 << 19;  // half of an L2 cache
constexpr int64_t kFewestPanels = 4;     // over which filtering again would show
PLAIN SeparableSplit separable_split(const Separable& p) {
  const Depthwise& d = p.depthwise;
  const int64_t fitting = kTileBytes / (d.C * compute_size(d.dtype));
  const int64_t pixels = max_of(int64_t{28}, min_of(fitting, kPiecePixels));
  SeparableSplit s;
  s.columns = d.OW < 2 * pixels ? d.OW : pixels;
  s.column_blocks = ceil_div(d.OW, s.columns);
  s.lines = max_of(int64_t{1}, s.column_blocks == 1 ? pixels / s.columns : 1);
  s.line_blocks = ceil_div(d.N * d.OH, s.lines);
  const int64_t panels = ceil_div(p.product.N, panel_columns(d.dtype));
  const int64_t blocks = s.line_blocks * s.column_blocks;
  s.panels = panels;
  while (s.panels > kFewestPanels && blocks * ceil_div(panels, s.panels) < 16) {
    s.panels = max_of(kFewestPanels, ceil_div(s.panels, 2));
  }
  s.panel_blocks = ceil_div(panels, s.panels);
  return s;
}

PLAIN Split split_of(const Separable& p) {
  const SeparableSplit s = separable_split(p);
  const int64_t taps = s.panels * panel_columns(p.depthwise.dtype) + p.depthwise.taps;
  return split(s.line_blocks * s.column_blocks * s.panel_blocks,
               s.lines * s.columns * p.depthwise.C * taps);
}

}  // namespace torchext::cpu
