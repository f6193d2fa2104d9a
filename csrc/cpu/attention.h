// How attention is split among threads: by shape only. Each piece has scratch memory of its own,
// linear in the length; where there is none, it says so.
#pragma once

#include "../op/attention.h"
#include "pool2d.h"

namespace torchext::cpu {

struct AttentionForward : Attention {
  bool* out_of_memory;
};
// Of q, k and v.
struct AttentionGradients : AttentionBackward {
  bool* out_of_memory;
};
// Of the mask, summed over the matrices, rows and columns that it was broadcast over.
struct AttentionMaskGradient : AttentionBackward {
  bool* out_of_memory;
};

constexpr int64_t kKeyBlock = 128;  // whose scores against a tile of queries stay in L1

// Queries of a piece: each piece lays out all keys that it sees, so the more the better.
PLAIN int64_t query_block(const AttentionShape& p) {
  int64_t most = 336;  // whole tiles of every ISA, as its halves are
  while (most > 84 && p.matrices * ceil_div(p.Lq, most) < 24) most /= 2;
  return ceil_div(p.Lq, ceil_div(p.Lq, most));  // nearly equal ones
}

PLAIN int64_t group_of(const AttentionShape& p) { return p.lead[p.leads - 1]; }

constexpr int64_t kMostMaskRows = 84;

PLAIN bool shared(const AttentionMaskGradient& p, int d) { return p.grad_mask_stride.lead[d] == 0; }
PLAIN int64_t mask_matrices(const AttentionMaskGradient& p) {
  int64_t count = 1;
  for (int d = 0; d < p.leads; ++d) count *= shared(p, d) ? 1 : p.lead[d];
  return count;
}
// The queries whose gradients of the mask are made together; each block turns all keys.
PLAIN int64_t mask_rows(const AttentionMaskGradient& p) {
  return mask_matrices(p) * ceil_div(p.Lq, kMostMaskRows) >= 32 ? kMostMaskRows : 28;
}
PLAIN int64_t mask_row_blocks(const AttentionMaskGradient& p) {
  return p.grad_mask_stride.row == 0 ? 1 : ceil_div(p.Lq, mask_rows(p));
}

PLAIN Split split_of(const AttentionForward& p) {
  const int64_t rows = query_block(p);
  return split(p.matrices * ceil_div(p.Lq, rows), min_of(rows, p.Lq) * p.Lk * (p.D + p.Dv) / 8);
}
PLAIN Split split_of(const AttentionGradients& p) {
  return split(p.matrices / group_of(p), group_of(p) * p.Lq * p.Lk * (p.D + p.Dv) / 3);
}
PLAIN Split split_of(const AttentionMaskGradient& p) {
  return split(mask_matrices(p) * mask_row_blocks(p), kWorthAThread);
}

}  // namespace torchext::cpu
