// Sums of outer products over pixels: the gradients of weights.
//   sums[g, s, m, n] = sum over lines l and columns p of a[g, l, p, m] * b[g, l, p, s, n]
// summed per block of lines in registers, then over blocks in memory.
#pragma once

#include "product.h"

namespace torchext::cpu {

struct Outer {
  DType dtype;
  int64_t groups, images, rows, columns;
  int64_t M, N, segments;
  const void* a;  // F, m's adjacent
  int64_t a_group, a_image, a_row, a_column;
  const void* b;  // F, n's adjacent; whole vectors are read
  int64_t b_group, b_image, b_row, b_column;
  const int64_t* b_segment;
  void* sums;     // n's adjacent; F, or of dtype
  bool in_dtype;  // the latter: only where there are few_pixels()
  int64_t sums_group, sums_segment, sums_m;
};

// to[g M + m, segment, tap, channel] = sums[g, segment, m, tap * channels + channel]
struct OuterSums {
  DType dtype;  // of `to`
  int64_t groups, M, N, segments, channels;
  const void* sums;
  void* to;
  int64_t to_m, to_channel, to_tap;
  const int64_t* to_segment;
};

// sums[c] = sum over pixels of x[n, h, w, c], in two levels.
struct ColumnSums {
  DType dtype;  // of `to`
  int64_t images, rows, columns, C;
  const void* x;  // F
  int64_t image, row, column;
  void* to;
};

// Of so few pixels writing the sums takes longest: row after row.
constexpr int64_t kFewPixels = 8;
PLAIN bool few_pixels(const Outer& p) { return p.images * p.rows * p.columns <= kFewPixels; }
constexpr int64_t kOuterRows = 28;  // m's of a piece: whole tiles of every ISA but AVX2's

PLAIN Split split_of(const Outer& p) {
  const int64_t pixels = p.images * p.rows * p.columns;
  return split(p.groups * p.segments * ceil_div(p.M, kOuterRows),
               pixels * p.N * min_of(p.M, kOuterRows) / 8);
}
PLAIN Split split_of(const OuterSums& p) { return split(p.groups * p.M, p.segments * p.N * 8); }
PLAIN Split split_of(const ColumnSums& p) {
  return split(ceil_div(p.C, kChannelBlock), p.images * p.rows * p.columns * kChannelBlock);
}

}  // namespace torchext::cpu
