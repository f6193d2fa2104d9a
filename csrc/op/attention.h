// attention: y = softmax(q * k^T * scale + mask) * v over batches of matrices, and its gradients.
// Scores are never kept: the backward makes them again from q, k and the logsumexp of their rows.
#pragma once

#include "../common/plain.h"

namespace torchext {

// Leading dimensions; the last is that of the query heads which share a key head (1: none do).
constexpr int kMostLeads = 7;

// Strides, in elements, of a batch of matrices.
struct Matrices {
  int64_t lead[kMostLeads];
  int64_t row, column;
};

enum class Mask : int32_t { none, boolean, as_query, f32 };  // false is -inf; others are added

struct AttentionShape {
  DType dtype;
  int32_t leads;
  int64_t lead[kMostLeads];
  int64_t matrices;  // product of the leads
  int64_t Lq, Lk, D, Dv;
  double scale;
  bool causal;  // query t sees keys 0 ... t
  Mask mask_kind;
  const void* mask;
  Matrices mask_stride;
  const void *q, *k, *v;
  Matrices q_stride, k_stride, v_stride;
  // Windows of an image (window_attention): matrix i belongs to window i / heads % windows, whose
  // row t is row windows_rows[window][t] of q, k, v and y. Rows of different regions add -100.
  const int64_t* window_rows;  // null: rows as they are
  const int32_t* regions;      // [window][t], or null
  int64_t heads, windows;
  // Dropout: probabilities whose word is below the threshold become 0, the others `share` times
  // what they were. The key k of row r, of all rows of all matrices, has a word of Philox 4x32-10's
  // (dropout.h) counter (r * ceil(Lk / 16) + k / 16) * 4 + k % 8 / 2: number k % 16 / 8 * 2 + k %
  // 2, so that lanes which have what tensor cores give them take whole counters.
  uint32_t threshold;  // 0: none
  double share;
  uint64_t seed;
};

// The counter of a key of row r.
PLAIN int64_t counter_of(int64_t r, int64_t key, int64_t Lk) {
  return (r * ((Lk + 15) / 16) + key / 16) * 4 + key % 8 / 2;
}

struct Attention : AttentionShape {
  void* y;
  Matrices y_stride;
  void* logsumexp;  // [matrix][Lq] of float (double for float64), or null
};

struct AttentionBackward : AttentionShape {
  const void *grad_y, *y;
  Matrices grad_y_stride, y_stride;
  const void *logsumexp, *grad_logsumexp;  // [matrix][Lq]; the latter may be null
  void *grad_q, *grad_k, *grad_v;
  Matrices grad_q_stride, grad_k_stride, grad_v_stride;
  void* grad_mask;  // or null; strides of 0 where the mask was broadcast
  Matrices grad_mask_stride;
};

// Where matrix `index` begins.
PLAIN int64_t matrix_at(const AttentionShape& p, const Matrices& m, int64_t index) {
  int64_t at = 0;
  for (int d = p.leads - 1; d >= 0; --d) {
    at += index % p.lead[d] * m.lead[d];
    index /= p.lead[d];
  }
  return at;
}

void launch(const Attention& p, const Queue& queue);
void launch(const AttentionBackward& p, const Queue& queue);

}  // namespace torchext
