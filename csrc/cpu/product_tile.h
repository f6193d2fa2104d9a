// A product's tiles and what becomes of them, for kernels that multiply: included once per ISA.
#pragma once

#include "activation.h"
#include "gemm.h"
#include "product.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// What a tile's columns need to become outputs.
template <class T>
struct Finish {
  const T *bias, *residual;  // of the tile's first element; or null
  const Compute<T>*scale, *shift;
  T* y;
  int64_t residual_row, y_row;  // distances between the tile's rows
  int64_t columns;              // of N that the tile has
};

// The segments of a tile's sums, and the k's of each.
struct Reach {
  int64_t segment_begin, segment_end, k_begin, k_end;
};

// One vector of columns, `part` of them, of all rows; columns are adjacent in y and residual.
template <class T, int R, int V, class Part>
INLINE void finish_vector(const Product& p, const Finish<T>& to, int j, Part part,
                          Tile<Compute<T>, R, V>& sum) {
  const int64_t n = j * kLanes<T>;
  if (to.scale != nullptr) {
    const auto scale = load_row(to.scale + n, part), shift = load_row(to.shift + n, part);
    for (int i = 0; i < R; ++i) sum[i][j] = sum[i][j] * scale + shift;
  }
  if (to.bias != nullptr) {
    const auto bias = load_row(to.bias + n, part);
    for (int i = 0; i < R; ++i) sum[i][j] += bias;
  }
  if (to.residual != nullptr) {
    for (int i = 0; i < R; ++i) {
      sum[i][j] += load_row(to.residual + (i * to.residual_row + n), part);
    }
  }
  if (p.activation != Activation::none) {
    for (int i = 0; i < R; ++i) sum[i][j] = activate(p.activation, sum[i][j]);
  }
  for (int i = 0; i < R; ++i) store_row(to.y + (i * to.y_row + n), sum[i][j], part);
}

// Any strides: one element at a time, along the pixels first.
template <class T, int R, int V>
static void finish_elements(const Product& p, const Finish<T>& to,
                            const Tile<Compute<T>, R, V>& sum) {
  constexpr int N = kLanes<T>;
  for (int64_t n = 0; n < to.columns; ++n) {
    const Compute<T> bias = to.bias != nullptr ? load<1>(to.bias + n)[0] : 0;
    for (int i = 0; i < R; ++i) {
      Vec<Compute<T>, 1> v{sum[i][n / N][n % N]};
      if (to.scale != nullptr) v = v * to.scale[n] + to.shift[n];
      v += bias;
      if (to.residual != nullptr) {
        v += load<1>(to.residual + (i * to.residual_row + n * p.residual_n));
      }
      store<1>(to.y + (i * to.y_row + n * p.y_n), activate(p.activation, v));
    }
  }
}

template <class T, int R, int V>
INLINE void finish(const Product& p, const Finish<T>& to, Tile<Compute<T>, R, V>& sum) {
  if (p.y_n != 1 || (to.residual != nullptr && p.residual_n != 1)) {
    return finish_elements<T, R, V>(p, to, sum);
  }
  for (int j = 0; j < V; ++j) {
    const int64_t columns = to.columns - j * kLanes<T>;
    if (columns >= kLanes<T>) {
      finish_vector<T, R, V>(p, to, j, Whole{}, sum);
    } else {
      finish_vector<T, R, V>(p, to, j, Part{columns}, sum);
    }
  }
}

template <int R, int V, class T>
static void multiply_tile(const Product& p, const Compute<T>* a, int64_t a_row, const Compute<T>* b,
                          const Reach& reach, const Finish<T>& to) {
  using F = Compute<T>;
  Tile<F, R, V> sum = {};
  b += reach.k_begin * p.b_row;
  for (int64_t s = reach.segment_begin; s < reach.segment_end; ++s) {
    multiply<F, R, V>(a + p.a_segment[s] + reach.k_begin, a_row, 1, b + s * p.K * p.b_row, p.b_row,
                      reach.k_end - reach.k_begin, sum);
  }
  finish<T, R, V>(p, to, sum);
}

// The same for few columns, C: lanes along k, whose sums are then turned into columns.
template <int R, int C, class T>
static void dot_tile(const Product& p, const Compute<T>* a, int64_t a_row, const Compute<T>* b,
                     const Reach& reach, const Finish<T>& to) {
  using F = Compute<T>;
  constexpr int N = kLanes<F>;
  TileVector<F> sum[N > R * C ? N : R * C] = {};
  for (int64_t s = reach.segment_begin; s < reach.segment_end; ++s) {
    const F *x = a + p.a_segment[s] + reach.k_begin, *w = b + s * p.K + reach.k_begin;
    for_each_vector<F>(reach.k_end - reach.k_begin, [&](int64_t k, auto part) {
      TileVector<F> column[C];
      for (int c = 0; c < C; ++c) column[c] = load_row(w + c * p.segments * p.K + k, part);
      for (int i = 0; i < R; ++i) {
        const TileVector<F> v = load_row(x + i * a_row + k, part);
        for (int c = 0; c < C; ++c) sum[i * C + c] += v * column[c];
      }
    });
  }
  F totals[N > R * C ? N : R * C];
  if constexpr (R * C <= N) {
    transpose<N>(sum);
    for (int half = N / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
    }
    store<N>(totals, sum[0]);
  } else {
    for (int i = 0; i < R * C; ++i) totals[i] = sum_of_lanes(sum[i]);
  }
  constexpr int V = (C + N - 1) / N;
  Tile<F, R, V> columns = {};
  for (int i = 0; i < R; ++i) {
    F lanes[V * N] = {};
    for (int c = 0; c < C; ++c) lanes[c] = totals[i * C + c];
    for (int j = 0; j < V; ++j) columns[i][j] = load<N>(lanes + j * N);
  }
  finish<T, R, V>(p, to, columns);
}

// Outputs that follow each other along a line, or down a column.
struct Run {
  int64_t image, row, column, count;
  bool down;
};

// What a piece of a product is about.
struct ProductPiece {
  int64_t group;
  Range lines, columns, panels;
};

// Columns from n on of a run's outputs; a_of(image, row, column) is where the pixel's operands lie.
template <class T, class Of>
static void multiply_run(const Product& p, int64_t g, int64_t n, const Compute<T>* b,
                         const Run& run, const Reach& reach, Of a_of) {
  using F = Compute<T>;
  const int64_t a_row = run.down ? p.a_row : p.a_column;
  Finish<T> to{};
  to.y_row = run.down ? p.y_row : p.y_column;
  to.residual_row = run.down ? p.residual_row : p.residual_column;
  to.columns = min_of(int64_t{kTileColumns<F>}, p.N - n);
  if (p.bias != nullptr) to.bias = static_cast<const T*>(p.bias) + (g * p.N + n);
  if (p.scale != nullptr) {
    to.scale = static_cast<const F*>(p.scale) + (g * p.N + n);
    to.shift = static_cast<const F*>(p.shift) + (g * p.N + n);
  }
  // Where the operands of a tile's first output lie; `to` is made to begin with it.
  const auto at = [&](int64_t first) {
    const int64_t row = run.row + (run.down ? first : 0);
    const int64_t column = run.column + (run.down ? 0 : first);
    if (p.residual != nullptr) {
      to.residual = static_cast<const T*>(p.residual) +
                    (g * p.residual_group + run.image * p.residual_image + row * p.residual_row +
                     column * p.residual_column + n * p.residual_n);
    }
    to.y = static_cast<T*>(p.y) + (g * p.y_group + run.image * p.y_image + row * p.y_row +
                                   column * p.y_column + n * p.y_n);
    return a_of(run.image, row, column);
  };
  if (p.few_columns) {
    with_rows<kFewColumns>(p.N, [&](auto c) {
      constexpr int C = decltype(c)::value, R = kLanes<F> < C ? 1 : kLanes<F> / C;
      int64_t i = 0;
      for (; i + R <= run.count; i += R) dot_tile<R, C, T>(p, at(i), a_row, b, reach, to);
      for (; i < run.count; ++i) dot_tile<1, C, T>(p, at(i), a_row, b, reach, to);
    });
    return;
  }
  const int64_t tiles = ceil_div(run.count, int64_t{kTileRows});
  for (int64_t tile = 0; tile < tiles; ++tile) {  // of nearly equal numbers of rows
    const int64_t first = run.count * tile / tiles, rows = run.count * (tile + 1) / tiles - first;
    const F* a = at(first);
    with_rows(rows, [&](auto r) {
      constexpr int R = decltype(r)::value;
      to.columns > kLanes<T> ? multiply_tile<R, 2, T>(p, a, a_row, b, reach, to)
                             : multiply_tile<R, 1, T>(p, a, a_row, b, reach, to);
    });
  }
}

// Calls function(run, reach) for the runs of a piece whose outputs have the same k's inside the
// image: the middle of each line, and the columns beside it, down as many lines as are alike.
template <class Function>
INLINE void for_each_run(const Product& p, Range lines, Range columns, Function function) {
  const Borders& borders = p.borders;
  const auto segments_inside = [&](int64_t row) {
    const int64_t first = row * borders.step_h;
    Reach reach{0, p.segments, 0, p.K};
    while (reach.segment_begin < p.segments && first + borders.tap_h[reach.segment_begin] < 0) {
      ++reach.segment_begin;
    }
    while (reach.segment_end > reach.segment_begin &&
           first + borders.tap_h[reach.segment_end - 1] >= borders.H) {
      --reach.segment_end;
    }
    return reach;
  };
  const auto clamped = [&](int64_t column) {
    return min_of(columns.end, max_of(columns.begin, column));
  };
  const int64_t free = borders.W - borders.taps - borders.left;  // the last whole window's place
  const int64_t left = clamped(ceil_div(max_of(-borders.left, int64_t{0}), borders.step_w));
  const int64_t right = max_of(left, clamped(free < 0 ? 0 : free / borders.step_w + 1));
  for (int64_t line = lines.begin; line < lines.end; ++line) {
    const int64_t row = line % p.rows;
    function(Run{line / p.rows, row, left, right - left, false}, segments_inside(row));
  }
  const int64_t pixel = p.K / borders.taps;
  for (int64_t column = columns.begin; column < columns.end; ++column) {
    if (column == left && right > left) column = right;
    if (column >= columns.end) break;
    const int64_t first = column * borders.step_w + borders.left;
    const int64_t begin = min_of(borders.taps, max_of(-first, int64_t{0}));
    const int64_t end = min_of(borders.taps, max_of(borders.W - first, begin));
    for (int64_t line = lines.begin, next; line < lines.end; line = next) {
      Reach reach = segments_inside(line % p.rows);
      for (next = line + 1; next < lines.end && next % p.rows != 0; ++next) {
        const Reach other = segments_inside(next % p.rows);
        if (other.segment_begin != reach.segment_begin || other.segment_end != reach.segment_end) {
          break;
        }
      }
      reach.k_begin = begin * pixel, reach.k_end = end * pixel;
      function(Run{line / p.rows, line % p.rows, column, next - line, true}, reach);
    }
  }
}

// The results of a piece.
template <class T, class Of>
INLINE void multiply_piece(const Product& p, const ProductPiece& piece, Of a_of) {
  using F = Compute<T>;
  constexpr int64_t P = kPanelBytes / sizeof(F);
  const int64_t g = piece.group;
  for (int64_t panel = piece.panels.begin; panel < piece.panels.end; ++panel) {
    for (int64_t n = panel * P; n < min_of(p.N, (panel + 1) * P); n += kTileColumns<F>) {
      const F* b = static_cast<const F*>(p.b) + (g * p.b_group + panel * p.b_panel + n % P);
      const auto multiply = [&](const Run& run, const Reach& reach) {
        multiply_run<T>(p, g, n, b, run, reach, a_of);
      };
      if (p.borders.tap_h != nullptr) {
        for_each_run(p, piece.lines, piece.columns, multiply);
        continue;
      }
      const int64_t columns = piece.columns.end - piece.columns.begin;
      for (int64_t line = piece.lines.begin; line < piece.lines.end; ++line) {
        multiply(Run{line / p.rows, line % p.rows, piece.columns.begin, columns, false},
                 Reach{0, p.segments, 0, p.K});
      }
    }
  }
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
