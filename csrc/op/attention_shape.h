// What the ops of attention share: checks of tensors and the strides of matrices.
#pragma once

#include <optional>

#include "../common/dense.h"
#include "attention.h"

namespace torchext {

inline void check_like_query(const char* op, const char* argument, const Tensor& tensor,
                             const Tensor& query) {
  check_companion(op, argument, tensor, query, "the query's");
}

inline void check_sizes(const char* op, const char* argument, const Dims& got,
                        const Dims& expected) {
  CHECK(got == expected, op, ": ", argument, ": got shape ", got, ", expected ", expected);
}

// Strides in leading dimensions, of which the last is split into (heads, group).
inline Matrices matrices_of(const Dims& sizes, const Dims& strides, int64_t heads) {
  Matrices m{};
  for (int d = 0; d < sizes.rank - 2; ++d) m.lead[d] = sizes[d] == 1 ? 0 : strides[d];
  if (sizes.rank > 2) {  // a group's heads follow each other; keys and values have one for all
    const int last = sizes.rank - 3;
    const int64_t group = sizes[last] / max_of(heads, int64_t{1});
    m.lead[last + 1] = group > 1 ? strides[last] : 0;
    m.lead[last] *= max_of(group, int64_t{1});
  }
  m.row = strides[-2];
  m.column = strides[-1];
  return m;
}

inline Matrices matrices_of(const Tensor& tensor, int64_t heads) {
  return matrices_of(sizes_of(tensor), strides_of(tensor), heads);
}

// The strides of a mask, 0 where it is broadcast to `scores`.
inline Dims broadcast_strides(const char* op, const Dims& mask, const Dims& strides,
                              const Dims& scores) {
  Dims result;
  result.rank = scores.rank;
  bool fits = mask.rank <= scores.rank;
  for (int d = 1; fits && d <= mask.rank; ++d) {
    fits = mask[-d] == 1 || mask[-d] == scores[-d];
    if (mask[-d] != 1) result[-d] = strides[-d];
  }
  CHECK(fits, op, ": mask: got shape ", mask, ", expected one that broadcasts to ", scores);
  return result;
}

inline Mask mask_kind(const char* op, const Tensor& mask, const Tensor& query) {
  const ScalarType type = mask.scalar_type();
  if (type == ScalarType::Bool) return Mask::boolean;
  if (type == query.scalar_type()) return Mask::as_query;
  CHECK(type == ScalarType::Float, op, ": mask: got dtype ", torch::headeronly::toString(type),
        ", expected Bool, Float or the query's, ",
        torch::headeronly::toString(query.scalar_type()));
  return Mask::f32;
}

struct Checked {
  AttentionShape shape;
  Dims scores;    // [..., Lq, Lk]
  int64_t heads;  // of the keys
};

inline Dims rows_of(Dims sizes) {
  --sizes.rank;
  return sizes;
}

// A mask that broadcasts to c.scores.
inline void set_mask(const char* op, Checked& c, const std::optional<Tensor>& mask,
                     const Tensor& query) {
  if (!mask.has_value()) return;
  check_tensor(op, "mask", *mask);
  CHECK(mask->dim() <= c.scores.rank, op, ": mask: got ", mask->dim(),
        " dimensions, expected at most ", c.scores.rank);
  c.shape.mask_kind = mask_kind(op, *mask, query);
  c.shape.mask = memory_of(*mask);
  const Dims strides = broadcast_strides(op, sizes_of(*mask), strides_of(*mask), c.scores);
  c.shape.mask_stride = matrices_of(c.scores, strides, c.heads);
}

// A fresh gradient of the mask; empty where none is wanted.
inline Tensor mask_gradient(const char* op, AttentionBackward& p, const Checked& c,
                            const std::optional<Tensor>& mask, const Tensor& query, bool wanted) {
  CHECK(!wanted || (mask.has_value() && p.mask_kind != Mask::boolean), op,
        ": mask_grad: got true, expected false where there is no floating mask");
  const int64_t none = 0;
  if (!wanted) return empty_dense(op, query, Dims(&none, 1), false, query.scalar_type());
  Tensor grad = empty_dense(op, *mask, sizes_of(*mask), false, mask->scalar_type());
  p.grad_mask = memory_of(grad);
  p.grad_mask_stride = matrices_of(
      c.scores, broadcast_strides(op, sizes_of(*mask), strides_of(grad), c.scores), c.heads);
  return grad;
}

// Of logsumexp or its gradient, dense.
inline const void* rows_pointer(const char* op, const char* argument, const Tensor& tensor,
                                const Tensor& query, const Dims& sizes, Tensor& dense) {
  check_tensor(op, argument, tensor);
  CHECK(tensor.scalar_type() == compute_type(query), op, ": ", argument, ": got dtype ",
        torch::headeronly::toString(tensor.scalar_type()), ", expected ",
        torch::headeronly::toString(compute_type(query)));
  check_sizes(op, argument, sizes_of(tensor), sizes);
  dense = torch::stable::contiguous(tensor);
  return memory_of(dense);
}

}  // namespace torchext
