// Gradients of attention on the CPU, compiled once per ISA. With P = exp(scores - logsumexp) and
// dS = P * (grad_y * v^T - delta), delta = rows of grad_y * y (less grad_logsumexp):
//   grad_v = P^T * grad_y, grad_q = dS * k * scale, grad_k = dS^T * q * scale, grad_mask = dS.
// A piece is a matrix of keys with all queries that attend to it, summed in ascending order.
#include "attention_tile.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

constexpr int64_t kQueryRows = kMostMaskRows;  // whose P and dS stay in L2

// Scratch memory that makes P and dS of blocks.
template <class T>
struct Blocks {
  using F = Compute<T>;
  int64_t width, width_v;  // D and Dv in whole tiles
  F *q, *grad_y, *delta;   // all rows of one matrix; q times scale
  F *k, *v;                // a block of keys, turned
  F *p, *ds;               // [kQueryRows][kKeyBlock]
  F* y;                    // a row
  const F* logsumexp;      // of one matrix

  static int64_t size(const AttentionShape& p) {
    return p.Lq * (padded<F>(p.D) + padded<F>(p.Dv) + 1) + (p.D + p.Dv) * kKeyBlock +
           2 * kQueryRows * kKeyBlock + padded<F>(p.Dv);
  }
  Blocks(const AttentionShape& p, Arena<F>& arena)
      : width(padded<F>(p.D)), width_v(padded<F>(p.Dv)) {
    q = arena.take(p.Lq * width);
    grad_y = arena.take(p.Lq * width_v);
    delta = arena.take(p.Lq);
    k = arena.take(p.D * kKeyBlock);
    v = arena.take(p.Dv * kKeyBlock);
    this->p = arena.take(kQueryRows * kKeyBlock);
    ds = arena.take(kQueryRows * kKeyBlock);
    y = arena.take(width_v);
  }
};

// Rows [begin, end) of q and grad_y of one matrix.
template <class T>
static void lay_out_queries(const AttentionBackward& p, int64_t index, int64_t begin, int64_t end,
                            Blocks<T>& b) {
  using F = Compute<T>;
  lay_out<T>(p, p.q, p.q_stride, index, begin, end - begin, p.D, F(p.scale), b.width,
             b.q + begin * b.width);
  lay_out<T>(p, p.grad_y, p.grad_y_stride, index, begin, end - begin, p.Dv, 1, b.width_v,
             b.grad_y + begin * b.width_v);
  b.logsumexp = static_cast<const F*>(p.logsumexp) + index * p.Lq;
  const F* grad = static_cast<const F*>(p.grad_logsumexp);
  for (int64_t t = begin; t < end; ++t) {
    lay_out<T>(p, p.y, p.y_stride, index, t, 1, p.Dv, 1, b.width_v, b.y);
    Vec<F, kLanes<F>> product{};
    for (int64_t c = 0; c < b.width_v; c += kLanes<F>) {
      product += load<kLanes<F>>(b.y + c) * load<kLanes<F>>(b.grad_y + (t * b.width_v + c));
    }
    const F delta = sum_of_lanes(product) - (grad ? grad[index * p.Lq + t] : F(0));
    b.delta[t] = delta;
  }
}

template <class T>
static void turn_keys(const AttentionBackward& p, int64_t index, int64_t key, int64_t count,
                      Blocks<T>& b) {
  turn<T>(p, p.k, p.k_stride, index, key, count, p.D, b.k);
  turn<T>(p, p.v, p.v_stride, index, key, count, p.Dv, b.v);
}

// P and dS of rows [first, first + rows) and a block of keys.
template <class T>
static void make_scores(const AttentionBackward& p, int64_t index, int64_t first, int64_t rows,
                        int64_t key, int64_t count, const Blocks<T>& b) {
  using F = Compute<T>;
  using V = Vec<F, kLanes<F>>;
  constexpr int N = kLanes<F>, P = kTileColumns<F>;
  constexpr F kInfinity = F(__builtin_inf());
  const int64_t columns = padded<F>(count);
  multiply_rows<F>(rows, columns, b.q + first * b.width, b.width, 1, b.k, P, P * p.D, p.D, b.p,
                   kKeyBlock, {});
  multiply_rows<F>(rows, columns, b.grad_y + first * b.width_v, b.width_v, 1, b.v, P, P * p.Dv,
                   p.Dv, b.ds, kKeyBlock, {});
  alignas(64) F shares[kKeyBlock];
  for (int64_t i = 0; i < rows; ++i) {
    F *s = b.p + i * kKeyBlock, *ds = b.ds + i * kKeyBlock;
    mask_scores<T>(p, index, first + i, key, count, s);
    const F logsumexp = b.logsumexp[first + i], delta = b.delta[first + i];
    const F shift = logsumexp == -kInfinity ? F(0) : logsumexp;
    if (p.threshold != 0) {
      shares_of(p, index, first + i, key, count, shares);
      for (int64_t j = count; j < columns; ++j) shares[j] = 0;
    }
    for (int64_t j = 0; j < columns; j += N) {
      const V e = probability(at_most(load<N>(s + j) - shift, 88));
      const V share = p.threshold != 0 ? load<N>(shares + j) : V{} + 1;
      store<N>(s + j, e * share);
      store<N>(ds + j, e * (load<N>(ds + j) * share - delta));
    }
  }
}

template <class T>
static void differentiate(const AttentionGradients& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  constexpr int P = kTileColumns<F>;
  const int64_t width = padded<F>(p.D), width_v = padded<F>(p.Dv), group = group_of(p);
  const int64_t keys = ceil_div(p.Lk, kKeyBlock) * kKeyBlock;
  Arena<F> arena(Blocks<T>::size(p) + p.Lq * width + keys * (width + width_v) + kKeyBlock * width);
  if (arena.failed()) {
    *p.out_of_memory = true;
    return;
  }
  Blocks<T> b(p, arena);
  F* grad_q = arena.take(p.Lq * width);
  F* grad_k = arena.take(keys * width);
  F* grad_v = arena.take(keys * width_v);
  F* k = arena.take(kKeyBlock * width);
  for (int64_t piece = begin; piece < end; ++piece) {
    for (int64_t i = 0; i < keys * width; ++i) grad_k[i] = 0;
    for (int64_t i = 0; i < keys * width_v; ++i) grad_v[i] = 0;
    for (int64_t index = piece * group; index < (piece + 1) * group; ++index) {
      lay_out_queries(p, index, 0, p.Lq, b);
      for (int64_t i = 0; i < p.Lq * width; ++i) grad_q[i] = 0;
      for (int64_t key = 0; key < p.Lk; key += kKeyBlock) {
        const int64_t count = min_of(kKeyBlock, p.Lk - key);
        turn_keys(p, index, key, count, b);
        lay_out<T>(p, p.k, p.k_stride, index, key, count, p.D, F(p.scale), width, k);
        for (int64_t first = 0; first < p.Lq; first += kQueryRows) {
          const int64_t rows = min_of(kQueryRows, p.Lq - first);
          if (key >= keys_seen(p, first + rows)) continue;
          make_scores(p, index, first, rows, key, count, b);
          multiply_rows<F>(count, width_v, b.p, 1, kKeyBlock, b.grad_y + first * width_v, width_v,
                           P, rows, grad_v + key * width_v, width_v, {true, nullptr});
          multiply_rows<F>(count, width, b.ds, 1, kKeyBlock, b.q + first * width, width, P, rows,
                           grad_k + key * width, width, {true, nullptr});
          multiply_rows<F>(rows, width, b.ds, kKeyBlock, 1, k, width, P, count,
                           grad_q + first * width, width, {true, nullptr});
        }
      }
      put<T>(p, grad_q, width, nullptr, 1, index, 0, p.Lq, p.D, p.grad_q, p.grad_q_stride);
    }
    const int64_t index = piece * group;
    put<T>(p, grad_k, width, nullptr, 1, index, 0, p.Lk, p.D, p.grad_k, p.grad_k_stride);
    put<T>(p, grad_v, width_v, nullptr, 1, index, 0, p.Lk, p.Dv, p.grad_v, p.grad_v_stride);
  }
}

// Matrix number `other` of those that share mask matrix `own`.
INLINE int64_t sharing(const AttentionMaskGradient& p, int64_t own, int64_t other) {
  int64_t index = 0, step = 1;
  for (int d = p.leads - 1; d >= 0; --d) {
    int64_t& from = shared(p, d) ? other : own;
    index += from % p.lead[d] * step;
    from /= p.lead[d];
    step *= p.lead[d];
  }
  return index;
}

template <class T, class M>
static void put_mask_row(const AttentionMaskGradient& p, const Compute<T>* sums, M* to) {
  using F = Compute<M>;
  const int64_t column = p.grad_mask_stride.column;
  if (column != 0) {
    for (int64_t j = 0; j < p.Lk; ++j) {
      store<1>(to + j * column, Vec<F, 1>{static_cast<F>(sums[j])});
    }
    return;
  }
  Compute<T> sum = 0;
  for (int64_t j = 0; j < p.Lk; ++j) sum += sums[j];
  store<1>(to, Vec<F, 1>{static_cast<F>(sum)});
}

template <class T>
static void differentiate_mask(const AttentionMaskGradient& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const bool one_row = p.grad_mask_stride.row == 0;
  const int64_t sum_rows = one_row ? 1 : min_of(mask_rows(p), p.Lq);
  Arena<F> arena(Blocks<T>::size(p) + sum_rows * p.Lk);
  if (arena.failed()) {
    *p.out_of_memory = true;
    return;
  }
  Blocks<T> b(p, arena);
  F* sums = arena.take(sum_rows * p.Lk);
  const int64_t blocks = mask_row_blocks(p), sharers = p.matrices / mask_matrices(p);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t own = piece / blocks, begin_row = one_row ? 0 : piece % blocks * mask_rows(p);
    const int64_t end_row = one_row ? p.Lq : min_of(p.Lq, begin_row + mask_rows(p));
    for (int64_t i = 0; i < sum_rows * p.Lk; ++i) sums[i] = 0;
    for (int64_t other = 0; other < sharers; ++other) {
      const int64_t index = sharing(p, own, other);
      lay_out_queries(p, index, begin_row, end_row, b);
      for (int64_t key = 0; key < p.Lk; key += kKeyBlock) {
        const int64_t count = min_of(kKeyBlock, p.Lk - key);
        turn_keys(p, index, key, count, b);
        for (int64_t first = begin_row; first < end_row; first += kQueryRows) {
          const int64_t rows = min_of(kQueryRows, end_row - first);
          if (key >= keys_seen(p, first + rows)) continue;
          make_scores(p, index, first, rows, key, count, b);
          for (int64_t i = 0; i < rows; ++i) {
            F* to = sums + (one_row ? 0 : i) * p.Lk + key;
            for (int64_t j = 0; j < count; ++j) to[j] += b.ds[i * kKeyBlock + j];
          }
        }
      }
    }
    const int64_t at = matrix_at(p, p.grad_mask_stride, sharing(p, own, 0));
    for (int64_t i = 0; i < (one_row ? 1 : end_row - begin_row); ++i) {
      const int64_t row = at + (begin_row + i) * p.grad_mask_stride.row;
      if (p.mask_kind == Mask::f32) {
        put_mask_row<T>(p, sums + i * p.Lk, static_cast<float*>(p.grad_mask) + row);
      } else {
        put_mask_row<T>(p, sums + i * p.Lk, static_cast<T*>(p.grad_mask) + row);
      }
    }
  }
}

}  // namespace

void run(const AttentionGradients& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(differentiate, p, begin, end)
}
void run(const AttentionMaskGradient& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(differentiate_mask, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
