// A product's pieces, its tiles and what becomes of them, for product.cpp.
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

// The tile's sums, over the segments and k's that are within reach. E: what a and b are made of.
template <class E, int R, int V>
INLINE void add_up(const Product& p, const E* a, int64_t a_row, const E* b, const Reach& reach,
                   Tile<Compute<E>, R, V>& sum) {
  b += reach.k_begin * p.b_row;
  for (int64_t s = reach.segment_begin; s < reach.segment_end; ++s) {
    multiply<E, R, V>(a + p.a_segment[s] + reach.k_begin, a_row, 1, b + s * p.K * p.b_row, p.b_row,
                      reach.k_end - reach.k_begin, sum, p.b_panel);
  }
}

template <class E, int R, int V, class F = Compute<E>>
static void add_up_to(F* sums, const Product& p, const E* a, int64_t a_row, const E* b,
                      const Reach& reach) {
  Tile<F, R, V> sum = {};
  add_up<E, R, V>(p, a, a_row, b, reach, sum);
  unrolled<R>([&](auto i) ALWAYS_INLINE {
    unrolled<V>([&](auto j) ALWAYS_INLINE {
      store<kLanes<F>>(sums + (i.value * V + j.value) * kLanes<F>, sum[i.value][j.value]);
    });
  });
}

// Whether outputs, and what is added to them, are adjacent from column to column.
INLINE bool columns_adjacent(const Product& p) {
  return p.y_n == 1 && (p.residual == nullptr || p.residual_n == 1);
}

// Sums become outputs in two ways. Those of f32 and of pairs do it in registers, where outputs are
// adjacent and the activation is a short one. All others go through memory, from where loops that
// are not unrolled take them: tiles of every size and type that did it themselves would take
// minutes to compile.
template <class T, class E>
constexpr bool kInRegisters = false;
template <>
constexpr bool kInRegisters<float, float> = true;
template <>
constexpr bool kInRegisters<bf16, Pair> = true;
INLINE bool in_registers(const Product& p) {
  return columns_adjacent(p) &&
         (p.activation == Activation::none || p.activation == Activation::relu ||
          p.activation == Activation::relu6 || p.activation == Activation::hardswish);
}

// Vector J of the columns, `part` of it, of all rows.
template <int J, int R, int V, class T, class Part>
INLINE void finish_vector(const Product& p, const Finish<T>& to, Part part,
                          Tile<float, R, V>& sum) {
  constexpr int n = J * kLanes<float>;
  if (to.scale != nullptr) {
    const auto scale = load_row(to.scale + n, part), shift = load_row(to.shift + n, part);
    unrolled<R>([&](auto i) ALWAYS_INLINE { sum[i.value][J] = sum[i.value][J] * scale + shift; });
  }
  if (to.bias != nullptr) {
    const auto bias = load_row(to.bias + n, part);
    unrolled<R>([&](auto i) ALWAYS_INLINE { sum[i.value][J] += bias; });
  }
  if (to.residual != nullptr) {
    const int64_t row = to.residual_row;
    unrolled<R>([&](auto i) ALWAYS_INLINE {
      sum[i.value][J] += load_row(to.residual + (i.value * row + n), part);
    });
  }
  if (p.activation == Activation::hardswish) {
    unrolled<R>([&](auto i) ALWAYS_INLINE { sum[i.value][J] = hardswish_of(sum[i.value][J]); });
  } else if (p.activation != Activation::none) {
    unrolled<R>([&](auto i) ALWAYS_INLINE { sum[i.value][J] = at_least(sum[i.value][J], 0); });
    if (p.activation == Activation::relu6) {
      unrolled<R>([&](auto i) ALWAYS_INLINE { sum[i.value][J] = at_most(sum[i.value][J], 6); });
    }
  }
  T* const y = to.y + n;
  const int64_t row = to.y_row;
  unrolled<R>([&](auto i) ALWAYS_INLINE { store_row(y + i.value * row, sum[i.value][J], part); });
}

template <int J, int R, int V, class T>
INLINE void finish_vectors(const Product& p, const Finish<T>& to, Tile<float, R, V>& sum) {
  constexpr int N = kLanes<float>;
  const int64_t columns = to.columns - J * N;
  if (columns >= N) {
    finish_vector<J, R, V>(p, to, Whole{}, sum);
  } else if (columns > 0) {
    finish_vector<J, R, V>(p, to, Part{columns}, sum);
  }
  if constexpr (J + 1 < V) finish_vectors<J + 1, R, V>(p, to, sum);
}

// From memory, `sums_row` from row to row: by vectors where columns are adjacent.
template <class T>
static void finish_rows(const Product& p, const Finish<T>& to, const Compute<T>* sums,
                        int64_t sums_row, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i) {
    for_each_vector<T>(to.columns, [&](int64_t n, auto part) {
      auto v = load_row(sums + (i * sums_row + n), part);
      if (to.scale != nullptr) {
        v = v * load_row(to.scale + n, part) + load_row(to.shift + n, part);
      }
      if (to.bias != nullptr) v += load_row(to.bias + n, part);
      if (to.residual != nullptr) v += load_row(to.residual + (i * to.residual_row + n), part);
      store_row(to.y + (i * to.y_row + n), activate(p.activation, v), part);
    });
  }
}

// Else one by one, along the pixels first.
template <class T>
static void finish_elements(const Product& p, const Finish<T>& to, const Compute<T>* sums,
                            int64_t sums_row, int64_t rows) {
  for (int64_t n = 0; n < to.columns; ++n) {
    const Compute<T> bias = to.bias != nullptr ? load<1>(to.bias + n)[0] : 0;
    for (int64_t i = 0; i < rows; ++i) {
      Vec<Compute<T>, 1> v{sums[i * sums_row + n]};
      if (to.scale != nullptr) v = v * to.scale[n] + to.shift[n];
      v += bias;
      if (to.residual != nullptr) {
        v += load<1>(to.residual + (i * to.residual_row + n * p.residual_n));
      }
      store<1>(to.y + (i * to.y_row + n * p.y_n), activate(p.activation, v));
    }
  }
}

template <class T>
static void finish(const Product& p, const Finish<T>& to, const Compute<T>* sums, int64_t sums_row,
                   int64_t rows) {
  columns_adjacent(p) ? finish_rows(p, to, sums, sums_row, rows)
                      : finish_elements(p, to, sums, sums_row, rows);
}

template <int R, int V, class T, class E>
INLINE void multiply_tile(const Product& p, const E* a, int64_t a_row, const E* b,
                          const Reach& reach, const Finish<T>& to) {
  constexpr int N = V * kLanes<E>;
  Compute<T> sums[R * N];
  add_up_to<E, R, V>(sums, p, a, a_row, b, reach);
  finish(p, to, sums, N, R);
}
template <int R, int V, class T, class E>
static void multiply_tile_in_registers(const Product& p, const E* a, int64_t a_row, const E* b,
                                       const Reach& reach, const Finish<T>& to) {
  Tile<float, R, V> sum = {};
  add_up<E, R, V>(p, a, a_row, b, reach, sum);
  finish_vectors<0, R, V>(p, to, sum);
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
      unrolled<C>([&](auto c) ALWAYS_INLINE {
        column[c.value] = load_row(w + c.value * p.segments * p.K + k, part);
      });
      unrolled<R>([&](auto i) ALWAYS_INLINE {
        const TileVector<F> v = load_row(x + i.value * a_row + k, part);
        unrolled<C>([&](auto c)
                        ALWAYS_INLINE { sum[i.value * C + c.value] += v * column[c.value]; });
      });
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
  finish(p, to, totals, C, R);
}

// Outputs that follow each other along a line, or down a column.
struct Run {
  int64_t image, row, column, count;
  bool down;
};

// The outputs of a run in `columns` of N, which begin with a panel. Tile after tile, so that what
// is written lies together.
template <class T, class E>
static void multiply_run(const Product& p, int64_t g, Range columns, const Run& run,
                         const Reach& reach) {
  using F = Compute<T>;
  constexpr int64_t P = kPanelBytes / sizeof(E);
  const int64_t a_row = run.down ? p.a_row : p.a_column;
  Finish<T> to{};
  to.y_row = run.down ? p.y_row : p.y_column;
  to.residual_row = run.down ? p.residual_row : p.residual_column;
  const E* panels = static_cast<const E*>(p.b) + g * p.b_group;
  const auto rows_of = [&](int64_t first, int64_t width, auto function) {
    const int64_t row = run.row + (run.down ? first : 0);
    const int64_t column = run.column + (run.down ? 0 : first);
    const E* a = static_cast<const E*>(p.a) +
                 (g * p.a_group + run.image * p.a_image + row * p.a_row + column * p.a_column);
    for (int64_t n = columns.begin; n < columns.end; n += width) {
      to.columns = min_of(width, columns.end - n);
      if (p.bias != nullptr) to.bias = static_cast<const T*>(p.bias) + (g * p.N + n);
      if (p.scale != nullptr) {
        to.scale = static_cast<const F*>(p.scale) + (g * p.N + n);
        to.shift = static_cast<const F*>(p.shift) + (g * p.N + n);
      }
      if (p.residual != nullptr) {
        to.residual = static_cast<const T*>(p.residual) +
                      (g * p.residual_group + run.image * p.residual_image + row * p.residual_row +
                       column * p.residual_column + n * p.residual_n);
      }
      to.y = static_cast<T*>(p.y) + (g * p.y_group + run.image * p.y_image + row * p.y_row +
                                     column * p.y_column + n * p.y_n);
      function(a, panels + (n / P * p.b_panel + n % P));
    }
  };
  if constexpr (!kIsPair<E>) {
    if (p.few_columns) {
      with_rows<kFewColumns>(p.N, [&](auto c) {
        constexpr int C = decltype(c)::value, R = kLanes<F> < C ? 1 : kLanes<F> / C;
        int64_t i = 0;
        for (; i + R <= run.count; i += R) {
          rows_of(i, C,
                  [&](const F* a, const F* b) { dot_tile<R, C, T>(p, a, a_row, b, reach, to); });
        }
        for (; i < run.count; ++i) {
          rows_of(i, C,
                  [&](const F* a, const F* b) { dot_tile<1, C, T>(p, a, a_row, b, reach, to); });
        }
      });
      return;
    }
  }
  // Where there are columns for it, tiles are wide and low: rows whose distance is a multiple of 1
  // KB share few sets of L1, which thrash if a tile has many of them.
  const bool registers = in_registers(p);
  const bool wide = kWideRows > 0 && columns.end - columns.begin > kTileColumns<F>;
  const int64_t width = wide ? 2 * kTileColumns<F> : kTileColumns<F>;
  const int64_t tiles = ceil_div(run.count, int64_t{wide ? kWideRows : kTileRows});
  for (int64_t tile = 0; tile < tiles; ++tile) {  // of nearly equal numbers of rows
    const int64_t first = run.count * tile / tiles, rows = run.count * (tile + 1) / tiles - first;
    rows_of(first, width, [&](const E* a, const E* b) {
      const auto multiply = [&](auto r) {
        constexpr int R = decltype(r)::value;
        const auto by_vectors = [&](auto v) {
          constexpr int V = decltype(v)::value;
          if constexpr (kInRegisters<T, E>) {
            if (registers) return multiply_tile_in_registers<R, V>(p, a, a_row, b, reach, to);
          }
          multiply_tile<R, V, T, E>(p, a, a_row, b, reach, to);
        };
        if constexpr (R <= kWideRows) {
          if (to.columns > kTileColumns<F>) return by_vectors(Constant<4>{});
        }
        to.columns > kLanes<T> ? by_vectors(Constant<2>{}) : by_vectors(Constant<1>{});
      };
      wide ? with_rows<(kWideRows > 0 ? kWideRows : 1)>(rows, multiply) : with_rows(rows, multiply);
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

// The results of a piece, for as many panels at a time as stay in L2.
template <class T, class E = Compute<T>>
static void multiply_piece(const Product& p, const ProductPiece& piece) {
  constexpr int64_t P = kPanelBytes / sizeof(E), kBlock = 256 << 10;
  const int64_t panel_bytes = max_of(int64_t{1}, p.segments * p.K * kPanelBytes);
  const int64_t step = max_of(int64_t{kWideRows > 0 ? 2 : 1}, kBlock / panel_bytes);
  for (int64_t panel = piece.panels.begin; panel < piece.panels.end; panel += step) {
    const int64_t panel_end = min_of(piece.panels.end, panel + step);
    const Range columns{panel * P, min_of(p.N, panel_end * P)};
    const auto multiply = [&](const Run& run, const Reach& reach) {
      multiply_run<T, E>(p, piece.group, columns, run, reach);
    };
    if (p.borders.tap_h != nullptr) {
      for_each_run(p, piece.lines, piece.columns, multiply);
      continue;
    }
    const int64_t count = piece.columns.end - piece.columns.begin;
    for (int64_t line = piece.lines.begin; line < piece.lines.end; ++line) {
      multiply(Run{line / p.rows, line % p.rows, piece.columns.begin, count, false},
               Reach{0, p.segments, 0, p.K});
    }
  }
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
