// Products over images, and the two steps that prepare their operands, compiled once per ISA.
#include "product.h"

#include "product_tile.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// Images: channels of one pixel at a time where they are adjacent in x, else blocks of pixels and
// channels that stay in L1 while their lines are turned.

template <class T>
INLINE Compute<T> widened(const T* p) {
  return load<1>(p)[0];
}

template <int N, class T, class To>
INLINE void copy_channels(const Image& p, const T* x, const T* y, To* to, int64_t c, int64_t end) {
  for (; c + N <= end; c += N) {
    auto v = load<N>(x + c);
    if (y != nullptr) v = gated(p.activation, v, load<N>(y + c));
    store<N>(to + c, v);
  }
  if constexpr (N > 1) copy_channels<N / 2>(p, x, y, to, c, end);
}

template <class T, class To>
INLINE void turn_pixels(const Image& p, int64_t C, const T* x, const T* y, To* to) {
  constexpr int64_t kBlock = 16;
  for (int64_t c0 = 0; c0 < C; c0 += kBlock) {
    const int64_t c_end = min_of(C, c0 + kBlock);
    for (int64_t w = 0; w < p.W; ++w) {
      To* pixel = to + w * p.step_w * C;
      for (int64_t c = c0; c < c_end; ++c) {
        Vec<Compute<T>, 1> v = load<1>(x + (c * p.x_stride.c + w * p.x_stride.w));
        if (y != nullptr) {
          v = gated(p.activation, v, load<1>(y + (c * p.y_stride.c + w * p.y_stride.w)));
        }
        store<1>(pixel + c, v);
      }
    }
  }
}

// C channels of a line of pixels, and the zeros beside and between them. x: the line, null if it is
// all zeros.
template <class T, class To>
INLINE void lay_out_line(const Image& p, int64_t C, const T* x, const T* y, To* to) {
  const int64_t line = p.columns * C;
  if (x == nullptr) {
    for (int64_t k = 0; k < line; ++k) to[k] = To{};
    return;
  }
  const int64_t used = p.W > 0 ? (p.W - 1) * p.step_w + 1 : 0, right = p.left + used;
  for (int64_t k = 0; k < p.left * C; ++k) to[k] = To{};
  for (int64_t k = right * C; k < line; ++k) to[k] = To{};
  if (p.step_w > 1) {
    for (int64_t k = p.left * C; k < right * C; ++k) to[k] = To{};
  }
  to += p.left * C;
  const Strides &xs = p.x_stride, &ys = p.y_stride;
  if (xs.c == 1 && (y == nullptr || ys.c == 1)) {
    // Pixels that follow each other are copied as one.
    const bool dense = xs.w == C && p.step_w == 1 && (y == nullptr || ys.w == C);
    const int64_t pixels = dense ? 1 : p.W, length = dense ? p.W * C : C;
    for (int64_t w = 0; w < pixels; ++w) {
      copy_channels<kLanes<T>>(p, x + w * xs.w, y ? y + w * ys.w : nullptr, to + w * p.step_w * C,
                               0, length);
    }
  } else {
    turn_pixels(p, C, x, y, to);
  }
}

template <class T, class To = Compute<T>>
static void lay_out(const Image& p, int64_t begin, int64_t end) {
  const int64_t C = p.C / p.groups, line = p.columns * C;
  const Strides &xs = p.x_stride, &ys = p.y_stride;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t n = index / p.rows, row = index % p.rows;
    const int64_t inside = row - p.top, h = inside / p.step_h;
    const bool empty = inside < 0 || h >= p.H || h * p.step_h != inside;
    for (int64_t g = 0; g < p.groups; ++g) {
      const T *x = nullptr, *y = nullptr;
      if (!empty) {
        x = static_cast<const T*>(p.x) + (n * xs.n + h * xs.h + g * C * xs.c);
        if (p.y) y = static_cast<const T*>(p.y) + (n * ys.n + h * ys.h + g * C * ys.c);
      }
      To* to = static_cast<To*>(p.to) + ((n * p.groups + g) * p.rows + row) * line;
      lay_out_line(p, C, x, y, to);
    }
  }
}

// Panels. Where a column's weights lie one after the other in memory, in whichever order of
// segments and k's, they are turned into rows of the panel by whole vectors, else one by one.
// Element q of a column becomes row q % fast * fast_rows + q / fast * slow_rows.
template <class T>
INLINE void pack_turned(const T* w, int64_t w_n, int64_t count, int64_t columns, Compute<T>* to,
                        int64_t fast, int64_t fast_rows, int64_t slow_rows) {
  using F = Compute<T>;
  constexpr int N = kLanes<T>;
  constexpr int64_t P = kPanelBytes / sizeof(F);
  for (int64_t n = 0; n < columns; n += N) {
    int64_t q = 0, inner = 0, outer = 0;  // q = outer * fast + inner, without dividing
    const int64_t some = min_of(int64_t{N}, columns - n);
    for (; q + N <= count && some == N; q += N) {
      Vec<F, N> rows[N];
      for (int i = 0; i < N; ++i) rows[i] = load<N>(w + (n + i) * w_n + q);
      transpose<N>(rows);
      for (int i = 0; i < N; ++i) {
        store<N>(to + (inner * fast_rows + outer * slow_rows) * P + n, rows[i]);
        if (++inner == fast) inner = 0, ++outer;
      }
    }
    for (; q < count; ++q) {
      F* row = to + (inner * fast_rows + outer * slow_rows) * P + n;
      for (int64_t i = 0; i < some; ++i) row[i] = widened(w + (n + i) * w_n + q);
      if (++inner == fast) inner = 0, ++outer;
    }
  }
}

template <class T>
INLINE void pack_columns(const Panels& p) {
  Compute<T>* to = static_cast<Compute<T>*>(p.to);
  for (int64_t n = 0; n < p.N; ++n) {
    for (int64_t s = 0; s < p.segments; ++s) {
      const T* w = static_cast<const T*>(p.w) + (n * p.w_n + p.w_segment[s]);
      for (int64_t k = 0; k < p.K; ++k) *to++ = widened(w + k * p.w_k);
    }
  }
}

template <class T>
static void pack(const Panels& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  constexpr int64_t P = kPanelBytes / sizeof(F);
  const int64_t panels = ceil_div(p.N, P), size = p.segments * p.K * P;
  bool segments_adjacent = p.w_k == p.segments;
  for (int64_t s = 0; s < p.segments; ++s) segments_adjacent &= p.w_segment[s] == s;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t g = index / panels, n0 = index % panels * P, columns = min_of(P, p.N - n0);
    const T* w = static_cast<const T*>(p.w) + (g * p.w_group + n0 * p.w_n);
    F* to = static_cast<F*>(p.to) + index * size;
    if (p.few_columns) {
      pack_columns<T>(p);
      continue;
    }
    if (columns < P) {
      for (int64_t k = 0; k < size; ++k) to[k] = 0;
    }
    if (segments_adjacent) {
      pack_turned(w, p.w_n, p.segments * p.K, columns, to, p.segments, p.K, 1);
      continue;
    }
    for (int64_t s = 0; s < p.segments; ++s) {
      const T* segment = w + p.w_segment[s];
      F* rows = to + s * p.K * P;
      if (p.w_k == 1) {
        pack_turned(segment, p.w_n, p.K, columns, rows, p.K, 1, 0);
        continue;
      }
      if (p.w_n == 1 && columns == P) {
        for (int64_t k = 0; k < p.K; ++k) {
          for (int64_t n = 0; n < P; n += kLanes<T>) {
            store<kLanes<T>>(rows + k * P + n, load<kLanes<T>>(segment + k * p.w_k + n));
          }
        }
        continue;
      }
      for (int64_t k = 0; k < p.K; ++k) {
        for (int64_t n = 0; n < columns; ++n) {
          rows[k * P + n] = widened(segment + (k * p.w_k + n * p.w_n));
        }
      }
    }
  }
}

// Panels of pairs. Where a column's pairs lie in memory as such, they are turned like floats, whose
// bits nobody looks at.
static void pack_pairs(const Panels& p, int64_t begin, int64_t end) {
  constexpr int64_t P = kPanelBytes / sizeof(Pair);
  const int64_t panels = ceil_div(p.N, P), size = p.segments * p.K * P;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t g = index / panels, n0 = index % panels * P, columns = min_of(P, p.N - n0);
    const bf16* w = static_cast<const bf16*>(p.w) + (g * p.w_group + n0 * p.w_n);
    Pair* to = static_cast<Pair*>(p.to) + index * size;
    if (columns < P) {
      for (int64_t k = 0; k < size; ++k) to[k] = {};
    }
    for (int64_t s = 0; s < p.segments; ++s) {
      const bf16* segment = w + p.w_segment[s];
      Pair* rows = to + s * p.K * P;
      if (p.w_k == 1 && p.w_n % 2 == 0) {
        pack_turned(reinterpret_cast<const float*>(segment), p.w_n / 2, p.K, columns,
                    reinterpret_cast<float*>(rows), p.K, 1, 0);
        continue;
      }
      for (int64_t n = 0; n < columns; ++n) {
        const bf16* column = segment + n * p.w_n;
        for (int64_t k = 0; k < p.K; ++k) {
          rows[k * P + n] = {column[2 * k * p.w_k], column[(2 * k + 1) * p.w_k]};
        }
      }
    }
  }
}

template <class T, class E = Compute<T>>
static void multiply_pieces(const Product& p, int64_t begin, int64_t end) {
  const ProductSplit s = product_split(p);
  const int64_t panels = ceil_div(p.N, panel_columns(p.dtype));
  const int64_t pixel_blocks = s.line_blocks * s.column_blocks;
  const int64_t blocks = pixel_blocks * s.panel_blocks;
  // A thread's pieces share pixels, which it has in its caches from the op before; but panels where
  // those are more than the results: each is then read by one thread.
  const bool panels_last = p.segments * p.K > p.images * p.rows * p.columns;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t g = index / blocks, block = index % blocks;
    const int64_t pixels = panels_last ? block % pixel_blocks : block / s.panel_blocks;
    const int64_t panel = (panels_last ? block / pixel_blocks : block % s.panel_blocks) * s.panels;
    const int64_t line = pixels / s.column_blocks * s.lines;
    const int64_t column = pixels % s.column_blocks * s.columns;
    const ProductPiece piece{g,
                             {line, min_of(p.images * p.rows, line + s.lines)},
                             {column, min_of(p.columns, column + s.columns)},
                             {panel, min_of(panels, panel + s.panels)}};
    multiply_piece<T, E>(p, piece);
  }
}

}  // namespace

void run(const Image& p, int64_t begin, int64_t end) {
  if (p.kept) return lay_out<bf16, bf16>(p, begin, end);
  FOR_EACH_DTYPE(lay_out, p, begin, end)
}
void run(const Panels& p, int64_t begin, int64_t end) {
  if (p.pairs) return pack_pairs(p, begin, end);
  FOR_EACH_DTYPE(pack, p, begin, end)
}
void run(const Product& p, int64_t begin, int64_t end) {
#if defined(__AVX512F__) && defined(TORCHEXT_KNOWS_PAIRS)
  if (p.pairs) return multiply_pieces<bf16, Pair>(p, begin, end);
#endif
  FOR_EACH_DTYPE(multiply_pieces, p, begin, end)
}
void multiply(const Product& p, const ProductPiece& piece) {
  FOR_EACH_DTYPE(multiply_piece, p, piece)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
