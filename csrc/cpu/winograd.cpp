// Winograd's convolution, compiled once per ISA.
#include "winograd.h"

#include "activation.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {

void multiply(const Product& p, const ProductPiece& piece);  // product.cpp's

namespace {

constexpr int S = kWinogradSide, M = kWinogradTile;
constexpr double kRootTwo = 1.4142135623730950;

// B of a line of 6.
template <class V>
INLINE void to_points(const V (&x)[S], V (&to)[S]) {
  using F = decltype(x[0][0] + 0);
  const V even_small = x[4] - x[2] * 2, odd_small = (x[3] - x[1] * 2) * F(kRootHalf);
  const V even_large = x[4] - x[2] * F(0.5), odd_large = (x[3] - x[1] * F(0.5)) * F(kRootTwo);
  to[0] = x[0] + x[4] - x[2] * F(2.5);
  to[1] = even_small + odd_small, to[2] = even_small - odd_small;
  to[3] = even_large + odd_large, to[4] = even_large - odd_large;
  to[5] = x[1] + x[5] - x[3] * F(2.5);
}

// A of a line's 6 points.
template <class V>
INLINE void from_points(const V (&m)[S], V (&to)[M]) {
  using F = decltype(m[0][0] + 0);
  const V even_small = m[1] + m[2], odd_small = (m[1] - m[2]) * F(kRootHalf);
  const V even_large = m[3] + m[4], odd_large = (m[3] - m[4]) * F(kRootTwo);
  to[0] = m[0] + even_small + even_large;
  to[1] = odd_small + odd_large;
  to[2] = even_small * F(0.5) + even_large * 2;
  to[3] = odd_small * F(0.5) + odd_large * 2 + m[5];
}

// Where a tile's outputs lie.
struct TilePlace {
  int64_t image, row, column;
};
INLINE TilePlace place_of(const WinogradSplit& s, int64_t tile) {
  const int64_t line = tile / s.tile_columns;
  return {line / s.tile_rows, line % s.tile_rows * M, tile % s.tile_columns * M};
}

// A tile's 36 values of every channel; what lies beyond the image is read from `zeros`.
template <class F>
static void transform_input(const Winograd& p, TilePlace at, const F* zeros, F* to, int64_t point) {
  using V = RowVector<F>;
  const F* x = static_cast<const F*>(p.x) + at.image * p.x_stride.n;
  const F* pixels[S][S];
  for (int i = 0; i < S; ++i) {
    for (int j = 0; j < S; ++j) {
      const int64_t h = at.row - p.top + i, w = at.column - p.left + j;
      const bool inside = h >= 0 && h < p.H && w >= 0 && w < p.W;
      pixels[i][j] = inside ? x + (h * p.x_stride.h + w * p.x_stride.w) : zeros;
    }
  }
  for_each_vector<F>(p.product.K, [&](int64_t c, auto part) {
    V half[S][S];
    unrolled<S>([&](auto j) ALWAYS_INLINE {
      V column[S], points[S];
      unrolled<S>([&](auto i) ALWAYS_INLINE {
        column[i.value] = load_row(pixels[i.value][j.value] + c, part);
      });
      to_points(column, points);
      unrolled<S>([&](auto i) ALWAYS_INLINE { half[i.value][j.value] = points[i.value]; });
    });
    unrolled<S>([&](auto i) ALWAYS_INLINE {
      V points[S];
      to_points(half[i.value], points);
      unrolled<S>([&](auto j) ALWAYS_INLINE {
        store_row(to + ((i.value * S + j.value) * point + c), points[j.value], part);
      });
    });
  });
}

// A tile's outputs, `columns` of them from output n on.
template <class T>
static void transform_output(const Winograd& p, TilePlace at, const Compute<T>* sums, int64_t point,
                             int64_t n, int64_t columns) {
  using F = Compute<T>;
  using V = RowVector<T>;
  const int64_t rows = min_of(int64_t{M}, p.OH - at.row);
  const int64_t row_columns = min_of(int64_t{M}, p.OW - at.column);
  const T* bias = p.bias ? static_cast<const T*>(p.bias) + n : nullptr;
  const Strides &ys = p.y_stride, &rs = p.residual_stride;
  T* y = static_cast<T*>(p.y) + (at.image * ys.n + at.row * ys.h + at.column * ys.w + n);
  const F* residual = static_cast<const F*>(p.residual);
  if (residual != nullptr) {
    residual += at.image * rs.n + at.row * rs.h + at.column * rs.w + n;
  }
  for_each_vector<T>(columns, [&](int64_t c, auto part) {
    V half[M][S];
    unrolled<S>([&](auto j) ALWAYS_INLINE {
      V column[S], outputs[M];
      unrolled<S>([&](auto i) ALWAYS_INLINE {
        column[i.value] = load_row(sums + ((i.value * S + j.value) * point + c), part);
      });
      from_points(column, outputs);
      unrolled<M>([&](auto i) ALWAYS_INLINE { half[i.value][j.value] = outputs[i.value]; });
    });
    const V shift = bias != nullptr ? load_row(bias + c, part) : V{};
    for (int64_t i = 0; i < rows; ++i) {
      V outputs[M];
      from_points(half[i], outputs);
      for (int64_t j = 0; j < row_columns; ++j) {
        V v = outputs[j] + shift;
        if (residual != nullptr) v += load_row(residual + (i * rs.h + j * rs.w + c), part);
        store_row(y + (i * ys.h + j * ys.w + c), activate(p.activation, v), part);
      }
    }
  });
}

template <class T>
static void convolve_pieces(const Winograd& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  constexpr int64_t P = kPanelBytes / sizeof(F), kLine = 64 / sizeof(F);
  const WinogradSplit s = winograd_split(p);
  const int64_t C = p.product.K, O = p.product.N, panels = ceil_div(O, P);
  // A cache line more from tile to tile, and from point to point: powers of two would meet in the
  // same sets of the caches.
  const int64_t tile = ceil_div(C, kLine) * kLine + kLine, point = s.most_tiles * tile;
  const int64_t sums_point = s.most_tiles * 2 * P + kLine;
  const int64_t size = kWinogradPoints * (point + sums_point) + C;
  F* inputs = static_cast<F*>(p.workspace(size * int64_t{sizeof(F)}));
  if (inputs == nullptr) {
    *p.out_of_memory = true;
    return;
  }
  F *sums = inputs + kWinogradPoints * point, *zeros = sums + kWinogradPoints * sums_point;
  for (int64_t c = 0; c < C; ++c) zeros[c] = 0;
  Product product = p.product;
  product.a = inputs, product.a_group = point, product.a_column = tile;
  product.y_group = sums_point, product.y_column = 2 * P, product.y_n = 1;
  int64_t transformed = -1;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t block = index / s.panel_blocks, first_panel = index % s.panel_blocks * s.panels;
    const int64_t first = s.tiles * block / s.blocks, last = s.tiles * (block + 1) / s.blocks;
    for (int64_t t = first; t < last && block != transformed; ++t) {
      transform_input(p, place_of(s, t), zeros, inputs + (t - first) * tile, point);
    }
    transformed = block;
    const int64_t last_panel = min_of(panels, first_panel + s.panels);
    for (int64_t panel = first_panel; panel < last_panel; panel += 2) {
      const int64_t n = panel * P, n_end = min_of(O, n + 2 * P);
      product.y = sums - n;
      for (int64_t g = 0; g < kWinogradPoints; ++g) {
        multiply(product, {g, {0, 1}, {0, last - first}, {panel, min_of(last_panel, panel + 2)}});
      }
      for (int64_t t = first; t < last; ++t) {
        transform_output<T>(p, place_of(s, t), sums + (t - first) * 2 * P, sums_point, n,
                            n_end - n);
      }
    }
  }
}

}  // namespace

void run(const Winograd& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(convolve_pieces, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
