// Attention on the CPU, compiled once per ISA. A piece is a block of queries of one matrix: blocks
// of keys pass by, and each tile of queries keeps the maximum and the sum of its rows of
// exponentials so far, and what they sum up to of v (online softmax).
#include "attention_tile.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// Rows' s = exp(s - maximum), and their maxima, sums, and what becomes of earlier sums.
template <class F, int R>
static void soften(F* s, int64_t count, F* maximum, F* sum, F* keep) {
  constexpr int N = kLanes<F>;
  constexpr F kInfinity = F(__builtin_inf());
  using V = Vec<F, N>;
  F shift[R];
  for (int i = 0; i < R; ++i) {
    V most = V{} + maximum[i];
    for (int64_t j = 0; j < count; j += N) {
      most = larger(most, load<N>(s + i * kKeyBlock + j));  // a NaN comes back in the sum
    }
    const F next = reduce(most, [](auto a, auto b) { return larger(a, b); });
    shift[i] = next == -kInfinity ? F(0) : next;  // nothing seen yet: all is exp(-inf) = 0
    keep[i] = maximum[i] - shift[i];
    maximum[i] = next;
  }
  for (int i = 0; i < R; i += N) store<N>(keep + i, probability(load<N>(keep + i)));
  for (int i = 0; i < R; ++i) {
    V total{};
    for (int64_t j = 0; j < count; j += N) {
      const V e = probability(load<N>(s + i * kKeyBlock + j) - shift[i]);
      total += e;
      store<N>(s + i * kKeyBlock + j, e);
    }
    sum[i] = sum[i] * keep[i] + sum_of_lanes(total);
  }
}

template <class T>
struct Queries {
  using F = Compute<T>;
  F *q, *k, *v, *s, *o, *maximum, *sum;
  int64_t width;  // of o and v: Dv in whole tiles
};

template <class T, int R>
static void attend_tile(const Attention& p, const Queries<T>& b, int64_t index, int64_t first,
                        int64_t row, int64_t key, int64_t count) {
  using F = Compute<T>;
  for (int64_t n = 0; n < count; n += kTileColumns<F>) {
    multiply_tile<F, R>(b.q + row * p.D, p.D, 1, b.k + n * p.D, kTileColumns<F>, p.D, b.s + n,
                        kKeyBlock, {});
  }
  for (int i = 0; i < R; ++i) {
    mask_scores<T>(p, index, first + row + i, key, count, b.s + i * kKeyBlock);
  }
  F keep[kTileRows + kLanes<F>] = {};  // in whole vectors
  soften<F, R>(b.s, padded<F>(count), b.maximum + row, b.sum + row, keep);
  for (int i = 0; i < R && p.threshold != 0; ++i) {
    alignas(64) F shares[kKeyBlock];
    shares_of(p, index, first + row + i, key, count, shares);
    for (int64_t j = 0; j < count; ++j) b.s[i * kKeyBlock + j] *= shares[j];
  }
  for (int64_t n = 0; n < b.width; n += kTileColumns<F>) {
    multiply_tile<F, R>(b.s, kKeyBlock, 1, b.v + n, b.width, count, b.o + (row * b.width + n),
                        b.width, {true, keep});
  }
}

template <class T>
static void attend(const AttentionForward& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  constexpr F kInfinity = F(__builtin_inf());
  const int64_t block = min_of(query_block(p), p.Lq), width = padded<F>(p.Dv);
  const int64_t blocks = ceil_div(p.Lq, query_block(p));
  Arena<F> arena(block * p.D + p.D * kKeyBlock + kKeyBlock * width + kTileRows * kKeyBlock +
                 block * width + 2 * block);
  if (arena.failed()) {
    *p.out_of_memory = true;
    return;
  }
  Queries<T> b;
  b.width = width;
  b.q = arena.take(block * p.D);
  b.k = arena.take(p.D * kKeyBlock);
  b.v = arena.take(kKeyBlock * width);
  b.s = arena.take(kTileRows * kKeyBlock);
  b.o = arena.take(block * width);
  b.maximum = arena.take(block);
  b.sum = arena.take(block);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t index = piece / blocks, first = piece % blocks * query_block(p);
    const int64_t rows = min_of(block, p.Lq - first), tiles = ceil_div(rows, int64_t{kTileRows});
    lay_out<T>(p, p.q, p.q_stride, index, first, rows, p.D, F(p.scale), p.D, b.q);
    for (int64_t i = 0; i < rows * width; ++i) b.o[i] = 0;
    for (int64_t i = 0; i < rows; ++i) b.maximum[i] = -kInfinity, b.sum[i] = 0;
    const int64_t seen = keys_seen(p, first + rows);
    for (int64_t key = 0; key < seen; key += kKeyBlock) {
      const int64_t count = min_of(kKeyBlock, p.Lk - key);
      turn<T>(p, p.k, p.k_stride, index, key, count, p.D, b.k);
      lay_out<T>(p, p.v, p.v_stride, index, key, count, p.Dv, 1, width, b.v);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t row = rows * tile / tiles, tile_end = rows * (tile + 1) / tiles;
        if (key >= keys_seen(p, first + tile_end)) continue;
        with_rows(tile_end - row, [&](auto r) {
          attend_tile<T, decltype(r)::value>(p, b, index, first, row, key, count);
        });
      }
    }
    F* logsumexp = static_cast<F*>(p.logsumexp);
    for (int64_t i = 0; i < rows; ++i) {
      const bool none = b.sum[i] == 0;  // saw no key: y = 0
      if (logsumexp != nullptr) {
        const Vec<F, 1> sum{b.sum[i]};
        logsumexp[index * p.Lq + first + i] = none ? -kInfinity : b.maximum[i] + vlog(sum)[0];
      }
      b.sum[i] = none ? 1 : 1 / b.sum[i];
    }
    put<T>(p, b.o, width, b.sum, 1, index, first, rows, p.Dv, p.y, p.y_stride);
  }
}

}  // namespace

void run(const AttentionForward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(attend, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
