// Sums of outer products over pixels, compiled once per ISA.
#include "outer.h"

#include "gemm.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// A block's a and b stay in L2 for all tiles of a piece.
constexpr int64_t kMostBlockPixels = 448, kLeastBlockPixels = 64, kBlockBytes = 512 << 10;

// Some lines, or, of long ones, a part of one.
struct Pixels {
  int64_t line_begin, line_end, column, columns;
};

// One tile of sums over a block, added to what the blocks before left in memory.
template <class F, int R, int V>
INLINE void add_block(const Outer& p, const F* a, const F* b, const Pixels& pixels, F* sums,
                      int64_t columns, bool first) {
  constexpr int N = kLanes<F>;
  Tile<F, R, V> sum = {};
  a += pixels.column * p.a_column, b += pixels.column * p.b_column;
  for (int64_t line = pixels.line_begin; line < pixels.line_end; ++line) {
    const int64_t image = line / p.rows, row = line % p.rows;
    multiply<F, R, V>(a + (image * p.a_image + row * p.a_row), 1, p.a_column,
                      b + (image * p.b_image + row * p.b_row), p.b_column, pixels.columns, sum);
  }
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < V; ++j) {
      F* to = sums + i * p.sums_m + j * N;
      const auto add = [&](auto part) {
        store_row(to, first ? sum[i][j] : load_row(to, part) + sum[i][j], part);
      };
      const int64_t rest = columns - j * N;
      rest >= N ? add(Whole{}) : add(Part{rest});
    }
  }
}

// S: what the sums are stored as.
template <class S>
INLINE void sum_few_pixels(const Outer& p, const Compute<S>* a, const Compute<S>* b, Range rows,
                           S* sums) {
  int64_t a_pixel[kFewPixels], b_pixel[kFewPixels], pixels = 0;
  for (int64_t line = 0; line < p.images * p.rows; ++line) {
    for (int64_t column = 0; column < p.columns; ++column, ++pixels) {
      const int64_t image = line / p.rows, row = line % p.rows;
      a_pixel[pixels] = image * p.a_image + row * p.a_row + column * p.a_column;
      b_pixel[pixels] = image * p.b_image + row * p.b_row + column * p.b_column;
    }
  }
  for (int64_t m = rows.begin; m < rows.end; ++m) {
    for_each_vector<S>(p.N, [&](int64_t n, auto part) {
      RowVector<S> sum{};
      for (int64_t k = 0; k < pixels; ++k) {
        sum += a[a_pixel[k] + m] * load_row(b + b_pixel[k] + n, part);
      }
      store_row(sums + m * p.sums_m + n, sum, part);
    });
  }
}

template <class T>
static void sum_outer(const Outer& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const int64_t parts = outer_parts(p), part_rows = ceil_div(p.M, parts);
  const int64_t lines = p.images * p.rows;
  const int64_t block_pixels = min_of(
      kMostBlockPixels,
      max_of(kLeastBlockPixels, kBlockBytes / static_cast<int64_t>(sizeof(F)) / (p.N + part_rows)));
  // Blocks are some lines, or parts of one.
  const int64_t block_lines = max_of(int64_t{1}, block_pixels / max_of(p.columns, int64_t{1}));
  const int64_t line_parts = max_of(int64_t{1}, ceil_div(p.columns, block_pixels));
  const int64_t blocks = ceil_div(lines, block_lines) * line_parts;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t part = index % parts, segment = index / parts % p.segments;
    const int64_t g = index / parts / p.segments % p.groups;
    const int64_t chunk = index / parts / p.segments / p.groups;
    const int64_t m_begin = part * part_rows, m_end = min_of(p.M, m_begin + part_rows);
    if (m_begin >= m_end) continue;
    const int64_t first = chunk * p.sums_chunk + g * p.sums_group + segment * p.sums_segment;
    F* sums = static_cast<F*>(p.sums) + first;
    const F* a = static_cast<const F*>(p.a) + g * p.a_group;
    const F* b = static_cast<const F*>(p.b) + (g * p.b_group + p.b_segment[segment]);
    if (few_pixels(p)) {
      const Range rows{m_begin, m_end};
      p.in_dtype ? sum_few_pixels(p, a, b, rows, static_cast<T*>(p.sums) + first)
                 : sum_few_pixels(p, a, b, rows, sums);
      continue;
    }
    const int64_t tile_rows = ceil_div(m_end - m_begin, ceil_div(m_end - m_begin, kTileRows));
    const auto add = [&](const Pixels& pixels, bool is_first) {
      for (int64_t m = m_begin; m < m_end; m += tile_rows) {
        with_rows(min_of(tile_rows, m_end - m), [&](auto r) {
          for (int64_t n = 0; n < p.N; n += kTileColumns<F>) {
            constexpr int R = decltype(r)::value;
            const int64_t columns = min_of(int64_t{kTileColumns<F>}, p.N - n);
            F* to = sums + m * p.sums_m + n;
            columns > kLanes<F>
                ? add_block<F, R, 2>(p, a + m, b + n, pixels, to, columns, is_first)
                : add_block<F, R, 1>(p, a + m, b + n, pixels, to, columns, is_first);
          }
        });
      }
    };
    const int64_t block_begin = chunk * blocks / p.chunks;
    const int64_t block_end = (chunk + 1) * blocks / p.chunks;
    for (int64_t block = block_begin; block < block_end; ++block) {
      const int64_t line = block / line_parts * block_lines;
      const int64_t column = block % line_parts * block_pixels;
      add({line, min_of(lines, line + block_lines), column,
           min_of(block_pixels, p.columns - column)},
          block == block_begin);
    }
  }
}

template <int N, class F, class T>
INLINE void place_channels(const F* from, T* to, int64_t c, int64_t end) {
  for (; c + N <= end; c += N) store<N>(to + c, load<N>(from + c));
  if constexpr (N > 1) place_channels<N / 2>(from, to, c, end);
}

// The sums to where they belong. The taps of a channel are close together there, or the channels of
// a tap are adjacent.
template <class T>
static void place_sums(const OuterSums& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const int64_t taps = p.N / p.channels, chunk_sums = p.groups * p.segments * p.M * p.N;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t g = index / p.M, m = index % p.M;
    F* sums = static_cast<F*>(p.sums) + (g * p.segments * p.M + m) * p.N;
    for (int64_t s = 0; p.chunks > 1 && s < p.segments; ++s) {
      F* total = sums + s * p.M * p.N;
      for_each_vector<F>(p.N, [&](int64_t n, auto part) {
        auto sum = load_row(total + n, part);
        for (int64_t c = 1; c < p.chunks; ++c) sum += load_row(total + (c * chunk_sums + n), part);
        store_row(total + n, sum, part);
      });
    }
    T* row = static_cast<T*>(p.to) + index * p.to_m;
    for (int64_t s = 0; s < p.segments; ++s) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const F* from = sums + s * p.M * p.N + tap * p.channels;
        T* to = row + (p.to_segment[s] + tap * p.to_tap);
        if (p.to_channel == 1) {
          place_channels<kLanes<T>>(from, to, 0, p.channels);
          continue;
        }
        for (int64_t c = 0; c < p.channels; ++c) {
          store<1>(to + c * p.to_channel, Vec<F, 1>{from[c]});
        }
      }
    }
  }
}

template <int N, class T>
INLINE void sum_columns(const ColumnSums& p, int64_t c, int64_t end) {
  using F = Compute<T>;
  for (; c + N <= end; c += N) {
    Vec<F, N> total{};
    for (int64_t line = 0; line < p.images * p.rows; ++line) {
      const F* x =
          static_cast<const F*>(p.x) + (line / p.rows * p.image + line % p.rows * p.row + c);
      Vec<F, N> of_line{};
      for (int64_t w = 0; w < p.columns; ++w) of_line += load<N>(x + w * p.column);
      total += of_line;
    }
    store<N>(static_cast<T*>(p.to) + c, total);
  }
  if constexpr (N > 1) sum_columns<N / 2, T>(p, c, end);
}

template <class T>
static void sum_pixels(const ColumnSums& p, int64_t begin, int64_t end) {
  sum_columns<kLanes<T>, T>(p, begin * kChannelBlock, min_of(p.C, end * kChannelBlock));
}

}  // namespace

void run(const Outer& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(sum_outer, p, begin, end) }
void run(const OuterSums& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(place_sums, p, begin, end)
}
void run(const ColumnSums& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(sum_pixels, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
