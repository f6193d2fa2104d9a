// What attention's kernels are made of: rows laid out in scratch memory in the type computed in,
// products of those, and a tile of scores with its mask. Compiled once per ISA.
#pragma once

#include "attention.h"
#include "gemm.h"
#include "math.h"
#include "philox.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// Scratch memory: sizes are added up first, then handed out from one block.
template <class F>
class Arena {
 public:
  explicit Arena(int64_t count) {
    const int64_t bytes = (count + 64 * kArrays) * static_cast<int64_t>(sizeof(F));
    memory_ = static_cast<F*>(__builtin_malloc(bytes));
    next_ = (reinterpret_cast<uintptr_t>(memory_) + 63) / 64 * 64;
  }
  ~Arena() { __builtin_free(memory_); }
  Arena(const Arena&) = delete;
  bool failed() const { return memory_ == nullptr; }
  F* take(int64_t count) {  // at most kArrays times
    F* taken = reinterpret_cast<F*>(next_);
    next_ += (count * sizeof(F) + 63) / 64 * 64;
    return taken;
  }

 private:
  static constexpr int kArrays = 15;
  F* memory_;
  uintptr_t next_;
};

// Columns in whole tiles.
template <class F>
INLINE int64_t padded(int64_t columns) {
  return ceil_div(columns, int64_t{kTileColumns<F>}) * kTileColumns<F>;
}

// Row t of matrix `index`, as a number of rows.
INLINE int64_t row_of(const AttentionShape& p, int64_t index, int64_t t) {
  return p.window_rows ? p.window_rows[index / p.heads % p.windows * p.Lq + t] : t;
}

template <int N, class T>
INLINE void widen(const T* x, Compute<T> factor, int64_t k, int64_t end, Compute<T>* to) {
  for (; k + N <= end; k += N) store<N>(to + k, load<N>(x + k) * factor);
  if constexpr (N > 1) widen<N / 2>(x, factor, k, end, to);
}
template <int N, class T>
INLINE void narrow(const Compute<T>* from, Compute<T> factor, int64_t k, int64_t end, T* to) {
  for (; k + N <= end; k += N) store<N>(to + k, load<N>(from + k) * factor);
  if constexpr (N > 1) narrow<N / 2>(from, factor, k, end, to);
}

// Rows [first, first + count) of a matrix times a factor, zeros up to `width` columns.
template <class T>
static void lay_out(const AttentionShape& p, const void* x, const Matrices& stride, int64_t index,
                    int64_t first, int64_t count, int64_t columns, Compute<T> factor, int64_t width,
                    Compute<T>* to) {
  const T* matrix = static_cast<const T*>(x) + matrix_at(p, stride, index);
  for (int64_t i = 0; i < count; ++i, to += width) {
    const T* row = matrix + row_of(p, index, first + i) * stride.row;
    if (stride.column == 1) {
      widen<kLanes<T>>(row, factor, 0, columns, to);
    } else {
      for (int64_t c = 0; c < columns; ++c) to[c] = load<1>(row + c * stride.column)[0] * factor;
    }
    for (int64_t c = columns; c < width; ++c) to[c] = 0;
  }
}

// The same rows as columns, in panels of a tile's width: to[panel][c][i], zeros beyond `count`.
template <class T>
static void turn(const AttentionShape& p, const void* x, const Matrices& stride, int64_t index,
                 int64_t first, int64_t count, int64_t columns, Compute<T>* to) {
  using F = Compute<T>;
  constexpr int N = kLanes<T>, P = kTileColumns<F>;
  const T* matrix = static_cast<const T*>(x) + matrix_at(p, stride, index);
  for (int64_t begin = 0; begin < padded<F>(count); begin += N) {
    F* panel = to + (begin / P * P * columns + begin % P);
    const T* row[N] = {};
    for (int i = 0; i < N && begin + i < count; ++i) {
      row[i] = matrix + row_of(p, index, first + begin + i) * stride.row;
    }
    int64_t c = 0;
    for (; c + N <= columns && stride.column == 1; c += N) {
      Vec<F, N> block[N];
      for (int i = 0; i < N; ++i) block[i] = row[i] ? load<N>(row[i] + c) : Vec<F, N>{};
      transpose<N>(block);
      for (int i = 0; i < N; ++i) store<N>(panel + (c + i) * P, block[i]);
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < N; ++i) {
        panel[c * P + i] = row[i] ? load<1>(row[i] + c * stride.column)[0] : F(0);
      }
    }
  }
}

// Rows of scratch memory times factor[i] (or `all`), rounded into a matrix.
template <class T>
static void put(const AttentionShape& p, const Compute<T>* from, int64_t width,
                const Compute<T>* factor, Compute<T> all, int64_t index, int64_t first,
                int64_t count, int64_t columns, void* y, const Matrices& stride) {
  T* matrix = static_cast<T*>(y) + matrix_at(p, stride, index);
  for (int64_t i = 0; i < count; ++i, from += width) {
    T* row = matrix + row_of(p, index, first + i) * stride.row;
    const Compute<T> by = factor ? factor[i] : all;
    if (stride.column == 1) {
      narrow<kLanes<T>>(from, by, 0, columns, row);
    } else {
      for (int64_t c = 0; c < columns; ++c) {
        store<1>(row + c * stride.column, Vec<Compute<T>, 1>{from[c] * by});
      }
    }
  }
}

// to[i][j] = keep * to[i][j] + sum over k < count of a[i][k] * b[k][j], for whole tiles of columns.
// keep: none (0), all (1), or a factor for each row.
template <class F>
struct Keep {
  bool any;
  const F* factor;
};
template <class F, int R>
static void multiply_tile(const F* a, int64_t a_row, int64_t a_step, const F* b, int64_t b_step,
                          int64_t count, F* to, int64_t to_row, Keep<F> keep) {
  constexpr int N = kLanes<F>;
  Tile<F, R> sum = {};
  if (keep.any) {
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < kTileVectors; ++j) {
        sum[i][j] = load<N>(to + i * to_row + j * N);
        if (keep.factor != nullptr) sum[i][j] *= keep.factor[i];
      }
    }
  }
  multiply<F, R>(a, a_row, a_step, b, b_step, count, sum);
  for (int i = 0; i < R; ++i) {
    for (int j = 0; j < kTileVectors; ++j) store<N>(to + i * to_row + j * N, sum[i][j]);
  }
}
// b's columns lie in tiles `b_tile` apart.
template <class F>
static void multiply_rows(int64_t rows, int64_t columns, const F* a, int64_t a_row, int64_t a_step,
                          const F* b, int64_t b_step, int64_t b_tile, int64_t count, F* to,
                          int64_t to_row, Keep<F> keep) {
  const int64_t tiles = ceil_div(rows, int64_t{kTileRows});
  for (int64_t column = 0; column < columns; column += kTileColumns<F>) {
    for (int64_t tile = 0; tile < tiles; ++tile) {  // of nearly equal numbers of rows
      const int64_t row = rows * tile / tiles, end = rows * (tile + 1) / tiles;
      with_rows(end - row, [&](auto r) {
        multiply_tile<F, decltype(r)::value>(a + row * a_row, a_row, a_step,
                                             b + column / kTileColumns<F> * b_tile, b_step, count,
                                             to + (row * to_row + column), to_row,
                                             {keep.any, keep.factor ? keep.factor + row : nullptr});
      });
    }
  }
}

// What a mask's elements add: 0 or -inf where it says which keys are seen.
template <class F, int N, class M>
INLINE Vec<F, N> added(const M* mask) {
  return __builtin_convertvector(load<N>(mask), Vec<F, N>);
}
template <class F, int N>
INLINE Vec<F, N> added(const bool* mask) {
  const auto seen = load_integers<Integer<F>, N>(reinterpret_cast<const uint8_t*>(mask));
  return seen != 0 ? Vec<F, N>{} : Vec<F, N>{} - F(__builtin_inf());
}
template <int N, class F, class M>
INLINE void add_vectors(const M* mask, int64_t k, int64_t count, F* s) {
  for (; k + N <= count; k += N) store<N>(s + k, load<N>(s + k) + added<F, N>(mask + k));
  if constexpr (N > 1) add_vectors<N / 2>(mask, k, count, s);
}
template <class M, class F>
static void add_mask(const AttentionShape& p, int64_t index, int64_t t, int64_t key, int64_t count,
                     F* s) {
  const int64_t column = p.mask_stride.column;
  const M* mask = static_cast<const M*>(p.mask) +
                  (matrix_at(p, p.mask_stride, index) + t * p.mask_stride.row + key * column);
  if (column == 1) return add_vectors<kLanes<F>>(mask, 0, count, s);
  for (int64_t j = 0; j < count; ++j) s[j] += added<F, 1>(mask + j * column)[0];
}

// Scores of query t with keys [key, key + count), which lie in s: masked, -inf beyond them.
template <class T>
static void mask_scores(const AttentionShape& p, int64_t index, int64_t t, int64_t key,
                        int64_t count, Compute<T>* s) {
  using F = Compute<T>;
  constexpr F kInfinity = F(__builtin_inf());
  switch (p.mask_kind) {
    case Mask::none:
      break;
    case Mask::boolean:
      add_mask<bool>(p, index, t, key, count, s);
      break;
    case Mask::as_query:
      add_mask<T>(p, index, t, key, count, s);
      break;
    case Mask::f32:
      add_mask<float>(p, index, t, key, count, s);
      break;
  }
  if (p.regions != nullptr) {
    const int32_t* region = p.regions + index / p.heads % p.windows * p.Lk;
    for (int64_t j = 0; j < count; ++j) s[j] += region[t] != region[key + j] ? F(-100) : F(0);
  }
  if (p.causal) {  // added, as torch does: NaN stays NaN
    for (int64_t j = max_of(t + 1 - key, int64_t{0}); j < count; ++j) s[j] -= kInfinity;
  }
  for (int64_t j = count; j < padded<F>(count); ++j) s[j] = -kInfinity;
}

// What dropout leaves of the probabilities of query t and keys [key, key + count), key being a
// multiple of 16 and count at most kKeyBlock.
template <class F>
static void shares_of(const AttentionShape& p, int64_t index, int64_t t, int64_t key, int64_t count,
                      F* shares) {
  constexpr int N = kLanes<F> < 4 ? 4 : kLanes<F>;  // counters, four of which are 16 keys
  const auto share = static_cast<F>(p.share);
  const int64_t first = counter_of(index * p.Lq + t, key, p.Lk);
  for (int64_t j = 0; j < count; j += 4 * N) {
    const Words<N> words = philox<N>(first + j / 4, p.seed);
    for (int i = 0; i < N; ++i) {
      F* pair = shares + j + i / 4 * 16 + i % 4 * 2;
      for (int w = 0; w < 4; ++w) {
        pair[w / 2 * 8 + w % 2] = words.word[w][i] >= p.threshold ? share : F(0);
      }
    }
  }
}

// Keys that queries before `end` see.
INLINE int64_t keys_seen(const AttentionShape& p, int64_t end) {
  return p.causal ? min_of(p.Lk, end) : p.Lk;
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
