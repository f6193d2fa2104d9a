// Convolution with 3 x 3 taps and stride 1 by Winograd's F(4x4, 3x3): tiles of 4 x 4 outputs, made
// of 6 x 6 inputs, are 36 products instead of 144 for each pair of channels,
//   y = A ((G w G') * (B x B')) A',   summed over the channels before A is applied,
// with polynomials known by their values in 0, +-sqrt(1/2), +-sqrt(2) and infinity. These points,
// as symmetric as 0, +-1, +-2, lose a fourth of what those do: a few times as much as direct sums.
//
// Of a block of tiles, inputs are transformed into a thread's own memory, [point][tile][channel];
// sums, by panels of outputs, are matrix products, point by point; and what they give is turned
// into outputs from memory that stays in the caches.
#pragma once

#include "../op/conv2d.h"
#include "product.h"

namespace torchext::cpu {

constexpr int kWinogradTile = 4, kWinogradSide = 6;

struct Winograd {
  Product product;  // at the points, which are its groups: b and its distances, K, N
  DType dtype;      // of y and bias
  int64_t images, H, W, OH, OW, top, left;
  const void *x, *residual;  // F, channels adjacent; residual: or null
  Strides x_stride, residual_stride;
  void* y;           // channels adjacent
  const void* bias;  // or null
  Strides y_stride;
  Activation activation;
  void* (*workspace)(int64_t bytes);  // a thread's own memory; null where there is none left
  bool* out_of_memory;                // kernels don't throw
};

// Pieces are blocks of tiles, and where those are few, of pairs of panels too: by shape only. A
// thread transforms a block's inputs once for all of its panels.
struct WinogradSplit {
  int64_t tile_rows, tile_columns, tiles, blocks, most_tiles, panels, panel_blocks;
};
constexpr int64_t kWinogradBytes = 512 << 10, kFewestTiles = 14, kMostTiles = 28;
PLAIN WinogradSplit winograd_split(const Winograd& p) {
  WinogradSplit s;
  s.tile_rows = ceil_div(p.OH, kWinogradTile), s.tile_columns = ceil_div(p.OW, kWinogradTile);
  s.tiles = p.images * s.tile_rows * s.tile_columns;
  const int64_t tile_bytes = kWinogradPoints * p.product.K * compute_size(p.dtype);
  const int64_t fitting =
      min_of(kMostTiles, max_of(kFewestTiles, kWinogradBytes / max_of(tile_bytes, int64_t{1})));
  s.blocks = ceil_div(s.tiles, fitting);
  if (s.blocks > 2) s.blocks = ceil_div(s.blocks, 4) * 4;  // alike for two or four threads
  s.most_tiles = ceil_div(s.tiles, max_of(s.blocks, int64_t{1}));
  s.panels = ceil_div(p.product.N, panel_columns(p.dtype));
  const int64_t panels = s.panels;
  while (s.panels > 2 && s.blocks * ceil_div(panels, s.panels) < 8) {
    s.panels = ceil_div(s.panels, 4) * 2;
  }
  s.panel_blocks = ceil_div(panels, s.panels);
  return s;
}

PLAIN Split split_of(const Winograd& p) {
  const WinogradSplit s = winograd_split(p);
  return split(s.blocks * s.panel_blocks,
               s.most_tiles * kWinogradPoints * p.product.K * s.panels * panel_columns(p.dtype));
}

}  // namespace torchext::cpu
