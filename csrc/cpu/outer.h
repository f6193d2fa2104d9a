// Sums of outer products over pixels: the gradients of weights.
//   sums[chunk, g, s, m, n] = sum over lines l and columns p of a[g, l, p, m] * b[g, l, p, s, n]
// summed per block of lines in registers, then over the blocks of a chunk in memory.
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
  int64_t chunks, sums_chunk, sums_group, sums_segment, sums_m;
};

// to[g M + m, segment, tap, channel] = sum over chunks of
//   sums[chunk, g, segment, m, tap * channels + channel]; those of the first become it.
struct OuterSums {
  DType dtype;  // of `to`
  int64_t chunks, groups, M, N, segments, channels;
  void* sums;
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

// Where there are many pixels but few sums, chunks of pixels are summed apart: each is read once,
// and threads share the work evenly. By shape alone: results don't depend on the number of threads.
constexpr int64_t kMostChunks = 8, kChunkPixels = 1024, kMostChunkSums = 1 << 19;
PLAIN int64_t chunks_of(const Outer& p) {
  const int64_t pixels = p.images * p.rows * p.columns, sums = p.groups * p.segments * p.M * p.N;
  int64_t chunks = 1;
  while (chunks < kMostChunks && pixels >= 2 * chunks * kChunkPixels &&
         2 * chunks * sums <= kMostChunkSums) {
    chunks *= 2;
  }
  return chunks;
}

// The parts into which pieces divide the m's, of equal size. Each part reads all of b, so chunks,
// which make pieces enough, have few; else an even number of them occupies an even one of threads.
constexpr int64_t kPartRows = 28, kPartRowsOfChunk = 112;
PLAIN int64_t outer_parts(const Outer& p) {
  const int64_t parts = ceil_div(p.M, p.chunks > 1 ? kPartRowsOfChunk : kPartRows);
  return parts == 1 ? 1 : parts + parts % 2;
}

PLAIN Split split_of(const Outer& p) {
  const int64_t pixels = p.images * p.rows * p.columns, parts = outer_parts(p);
  return split(p.chunks * p.groups * p.segments * parts,
               pixels / p.chunks * p.N * ceil_div(p.M, parts) / 8);
}
PLAIN Split split_of(const OuterSums& p) {
  return split(p.groups * p.M, p.chunks * p.segments * p.N * 8);
}
PLAIN Split split_of(const ColumnSums& p) {
  return split(ceil_div(p.C, kChannelBlock), p.images * p.rows * p.columns * kChannelBlock);
}

}  // namespace torchext::cpu
