// A step of a recurrent layer, forward and backward, compiled once per ISA. A piece is a panel of
// hidden units of a few rows; a tile's products stay in L1 until the cell has used them.
#include "recurrent.h"

#include "cells.h"
#include "dot_tile.h"
#include "gemm.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class F>
using Products = TileVector<F>[kTileRows][kTileVectors];

// One row has too few sums to hide how long an addition takes: four parts of the k's side by side.
template <class F>
INLINE void multiply_row(const F* a, const F* b, int64_t count, Products<F>& to) {
  constexpr int64_t N = kLanes<F>, P = kPanelBytes / sizeof(F), kParts = 4;
  const int64_t part = count / kParts;
  Tile<F, kParts> sum = {};
  for (int64_t k = 0; k < part; ++k) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kParts; ++i) {
      const F* row = b + (i * part + k) * P;
      for (int j = 0; j < kTileVectors; ++j) sum[i][j] += a[i * part + k] * load<N>(row + j * N);
    }
  }
  Tile<F, 1> rest = {};
  const int64_t done = kParts * part;
  multiply<F, 1>(a + done, 0, 1, b + done * P, P, count - done, rest);
  for (int j = 0; j < kTileVectors; ++j) {
    to[0][j] = (sum[0][j] + sum[1][j]) + (sum[2][j] + sum[3][j]) + rest[0][j];
  }
}

// to[i][j] = a[i] * b over `count` k's.
template <class F>
INLINE void multiply_rows(int64_t rows, const F* a, int64_t a_row, const F* b, int64_t count,
                          Products<F>& to) {
  if (rows == 1) return multiply_row(a, b, count, to);
  with_rows(rows, [&](auto r) {
    constexpr int R = decltype(r)::value;
    Tile<F, R> sum = {};
    multiply<F, R>(a, a_row, 1, b, kPanelBytes / sizeof(F), count, sum);
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < kTileVectors; ++j) to[i][j] = sum[i][j];
    }
  });
}

// The same with weights [columns][count] read where they are: at most a tile's columns.
template <class F>
INLINE void multiply_in_place(int64_t rows, const F* a, const F* w, int64_t columns, int64_t count,
                              Products<F>& to) {
  F sums[kTileRows][kTileColumns<F>] = {};
  for_each_dot<F>({a, count}, rows, {w, count}, min_of(columns, int64_t{kTileColumns<F>}), count,
                  [&](int64_t i, int64_t n, F sum) { sums[i][n] = sum; });
  __builtin_memcpy(&to, &sums, sizeof to);
}

// The first `count` lanes; zeros beyond.
template <class F>
INLINE TileVector<F> load_some(const F* p, int64_t count) {
  if (count >= kLanes<F>) return load<kLanes<F>>(p);
  TileVector<F> v{};
  __builtin_memcpy(&v, p, count * sizeof(F));
  return v;
}
template <class F>
INLINE void store_some(F* p, TileVector<F> v, int64_t count) {
  if (count >= kLanes<F>) return store<kLanes<F>>(p, v);
  __builtin_memcpy(p, &v, count * sizeof(F));
}

template <class F, class P>
INLINE F* element(P* p, int64_t index) {
  return static_cast<F*>(p) + index;
}

// Calls function(first row, rows, first column) for each tile of the pieces.
template <class F, class Function>
INLINE void for_each_tile(int64_t rows, int64_t columns, int64_t begin, int64_t end,
                          Function function) {
  constexpr int64_t P = kPanelBytes / sizeof(F);
  const int64_t panels = ceil_div(columns, P), blocks = row_blocks(rows, panels);
  for (int64_t index = begin; index < end; ++index) {
    const int64_t block = index / panels, column = index % panels * P;
    const int64_t row_begin = rows * block / blocks, row_end = rows * (block + 1) / blocks;
    const int64_t tiles = ceil_div(row_end - row_begin, int64_t{kTileRows});
    for (int64_t n = column; n < min_of(columns, column + P); n += kTileColumns<F>) {
      for (int64_t tile = 0; tile < tiles; ++tile) {  // of nearly equal numbers of rows
        const int64_t row = row_begin + (row_end - row_begin) * tile / tiles;
        function(row, row_begin + (row_end - row_begin) * (tile + 1) / tiles - row, n);
      }
    }
  }
}

template <class C, class F>
static void step(const RecurrentStep& p, int64_t begin, int64_t end) {
  constexpr int N = kLanes<F>;
  constexpr int64_t P = kPanelBytes / sizeof(F);
  using V = TileVector<F>;
  const int64_t panels = ceil_div(p.H, P);
  for_each_tile<F>(p.rows, p.H, begin, end, [&](int64_t row, int64_t rows, int64_t column) {
    Products<F> products[C::kGates];
    for (int g = 0; g < C::kGates; ++g) {
      const F* h = element<const F>(p.h, row * p.P);
      if (p.in_place) {
        const F* w = element<const F>(p.w, (g * p.H + column) * p.P);
        multiply_in_place<F>(rows, h, w, p.H - column, p.P, products[g]);
      } else {
        const int64_t panel = g * panels + column / P;
        const F* w = element<const F>(p.w, panel * p.P * P + column % P);
        multiply_rows<F>(rows, h, p.P, w, p.P, products[g]);
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int j = 0; j < kTileVectors; ++j) {
        const int64_t n = column + j * N, count = p.H - n, at = (row + i) * p.H + n;
        if (count <= 0) break;
        F* gates = element<F>(p.gates, (row + i) * p.gates_row + n);
        V x[C::kGates], r[C::kGates], saved[C::kSaved], c{}, h{};
        for (int g = 0; g < C::kGates; ++g) {
          x[g] = load_some(gates + g * p.H, count);
          r[g] = products[g][i][j];
          if (p.bias) r[g] += load_some(element<const F>(p.bias, g * p.H + n), count);
        }
        if constexpr (C::kHasC) {
          c = load_some(element<const F>(p.c, at), count);
        } else {
          h = load_some(element<const F>(p.h, at), count);
        }
        saved[C::kSaved - 1] = C::forward(x, r, h, c, saved);
        store_some(element<F>(p.y, at), saved[C::kSaved - 1], count);
        if constexpr (C::kHasC) store_some(element<F>(p.c, at), c, count);
        if (p.training) {
          for (int s = 0; s < C::kSaved; ++s) store_some(gates + s * p.H, saved[s], count);
        }
      }
    }
  });
}

template <class C, class F>
static void step_backward(const RecurrentStepBackward& p, int64_t begin, int64_t end) {
  constexpr int N = kLanes<F>;
  constexpr int64_t P = kPanelBytes / sizeof(F);
  using V = TileVector<F>;
  const int64_t K = C::kGates * p.H;
  for_each_tile<F>(p.rows, p.H, begin, end, [&](int64_t row, int64_t rows, int64_t column) {
    Products<F> products = {};
    if (p.after) {
      multiply_rows<F>(rows, element<const F>(p.after, row * p.gates_row), p.gates_row,
                       element<const F>(p.w, column / P * K * P + column % P), K, products);
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int j = 0; j < kTileVectors; ++j) {
        const int64_t n = column + j * N, count = p.H - n, at = (row + i) * p.H + n;
        if (count <= 0) break;
        V dh = load_some(element<const F>(p.dh, at), count) + products[i][j];
        dh += load_some(element<const F>(p.grad_y, at), count);
        V saved[C::kSaved], dx[C::kGates], dr[C::kGates], dc{}, h{};
        for (int s = 0; s < C::kSaved; ++s) {
          const int64_t from = ((row + i) * C::kSaved + s) * p.H + n;
          saved[s] = load_some(element<const F>(p.saved, from), count);
        }
        if constexpr (C::kHasC) {
          dc = load_some(element<const F>(p.dc, at), count);
        } else {
          h = load_some(element<const F>(p.h, (row + i) * p.h_row + n), count);
        }
        C::backward(saved, h, dh, dc, dx, dr);
        if constexpr (C::kHasC) store_some(element<F>(p.dc, at), dc, count);
        for (int g = 0; g < C::kGates; ++g) {
          const int64_t to = (row + i) * p.gates_row + g * p.H + n;
          store_some(element<F>(p.dx, to), dx[g], count);
          store_some(element<F>(p.dr, to), dr[g], count);
        }
        store_some(element<F>(p.dh, at), dh, count);
      }
    }
  });
}

}  // namespace

// function<Cell, type> for the cell and type that p names: one line per cell.
#define FOR_EACH_CELL(function, p, begin, end)          \
  const bool wide = (p).dtype == DType::f64;            \
  switch ((p).cell) {                                   \
    CELL(lstm, Lstm, function, p, begin, end)           \
    CELL(gru, Gru, function, p, begin, end)             \
    CELL(rnn_tanh, Rnn<false>, function, p, begin, end) \
    CELL(rnn_relu, Rnn<true>, function, p, begin, end)  \
  }
#define CELL(name, C, function, p, begin, end) \
  case Cell::name:                             \
    return wide ? function<C, double>(p, begin, end) : function<C, float>(p, begin, end);

void run(const RecurrentStep& p, int64_t begin, int64_t end) { FOR_EACH_CELL(step, p, begin, end) }
void run(const RecurrentStepBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_CELL(step_backward, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
