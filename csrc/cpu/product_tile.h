// A product's tiles and what becomes of them, for kernels that multiply: included once per ISA.
#pragma once

#include "activation.h"
#include "gemm.h"
#include "product.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// What a tile's columns need to become outputs.
template <class T>
struct Finish {
  const T *bias, *residual;  // of the tile's first element; or null
  const Compute<T>*scale, *shift;
  T* y;
  int64_t columns;  // of N that the tile has
};

template <class T, int R>
INLINE void finish_vectors(const Product& p, const Finish<T>& to, Tile<Compute<T>, R>& sum) {
  constexpr int N = kLanes<T>;
  for (int j = 0; j < kTileVectors; ++j) {
    if (to.scale != nullptr) {
      const auto scale = load<N>(to.scale + j * N), shift = load<N>(to.shift + j * N);
      for (int i = 0; i < R; ++i) sum[i][j] = sum[i][j] * scale + shift;
    }
    if (to.bias != nullptr) {
      const auto bias = load<N>(to.bias + j * N);
      for (int i = 0; i < R; ++i) sum[i][j] += bias;
    }
    for (int i = 0; i < R; ++i) {
      if (to.residual != nullptr) {
        sum[i][j] += load<N>(to.residual + (i * p.residual_column + j * N));
      }
      store<N>(to.y + (i * p.y_column + j * N), activate(p.activation, sum[i][j]));
    }
  }
}

// Any strides, any number of columns: one element at a time, along the pixels first.
template <class T, int R>
static void finish_elements(const Product& p, const Finish<T>& to, const Tile<Compute<T>, R>& sum) {
  constexpr int N = kLanes<T>;
  for (int64_t n = 0; n < to.columns; ++n) {
    const Compute<T> bias = to.bias != nullptr ? load<1>(to.bias + n)[0] : 0;
    for (int i = 0; i < R; ++i) {
      Vec<Compute<T>, 1> v{sum[i][n / N][n % N]};
      if (to.scale != nullptr) v = v * to.scale[n] + to.shift[n];
      v += bias;
      if (to.residual != nullptr) {
        v += load<1>(to.residual + (i * p.residual_column + n * p.residual_n));
      }
      store<1>(to.y + (i * p.y_column + n * p.y_n), activate(p.activation, v));
    }
  }
}

template <int R, class T>
static void multiply_tile(const Product& p, const Compute<T>* a, const Compute<T>* b,
                          const Finish<T>& to) {
  using F = Compute<T>;
  Tile<F, R> sum = {};
  for (int64_t s = 0; s < p.segments; ++s) {
    multiply<F, R>(a + p.a_segment[s], p.a_column, 1, b + s * p.K * p.b_row, p.b_row, p.K, sum);
  }
  const bool vectors =
      to.columns == kTileColumns<F> && p.y_n == 1 && (to.residual == nullptr || p.residual_n == 1);
  if (vectors) {
    finish_vectors<T, R>(p, to, sum);
  } else {
    finish_elements<T, R>(p, to, sum);
  }
}

// What a piece of a product is about.
struct ProductPiece {
  int64_t group;
  Range lines, columns, panels;
};

// The results of a piece; a_of(image, row, column) is where the pixel's operands lie.
template <class T, class Of>
INLINE void multiply_piece(const Product& p, const ProductPiece& piece, Of a_of) {
  using F = Compute<T>;
  constexpr int64_t P = kPanelBytes / sizeof(F), C = kTileColumns<F>;
  const int64_t g = piece.group, columns = piece.columns.end - piece.columns.begin;
  const int64_t tiles = ceil_div(columns, int64_t{kTileRows});
  for (int64_t panel = piece.panels.begin; panel < piece.panels.end; ++panel) {
    for (int64_t n = panel * P; n < min_of(p.N, (panel + 1) * P); n += C) {
      const F* b = static_cast<const F*>(p.b) + (g * p.b_group + panel * p.b_panel + n % P);
      for (int64_t line = piece.lines.begin; line < piece.lines.end; ++line) {
        const int64_t image = line / p.rows, row = line % p.rows;
        for (int64_t tile = 0; tile < tiles; ++tile) {  // of nearly equal numbers of rows
          const int64_t column = piece.columns.begin + columns * tile / tiles;
          const int64_t rows = piece.columns.begin + columns * (tile + 1) / tiles - column;
          Finish<T> to{};
          to.columns = min_of(C, p.N - n);
          if (p.bias != nullptr) to.bias = static_cast<const T*>(p.bias) + (g * p.N + n);
          if (p.scale != nullptr) {
            to.scale = static_cast<const F*>(p.scale) + (g * p.N + n);
            to.shift = static_cast<const F*>(p.shift) + (g * p.N + n);
          }
          if (p.residual != nullptr) {
            to.residual = static_cast<const T*>(p.residual) +
                          (g * p.residual_group + image * p.residual_image + row * p.residual_row +
                           column * p.residual_column + n * p.residual_n);
          }
          to.y = static_cast<T*>(p.y) + (g * p.y_group + image * p.y_image + row * p.y_row +
                                         column * p.y_column + n * p.y_n);
          const F* a = a_of(image, row, column);
          with_rows(rows, [&](auto r) { multiply_tile<decltype(r)::value, T>(p, a, b, to); });
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
