// Tensors of any rank as one run of memory, for ops that work element by element.
#pragma once

#include <algorithm>
#include <vector>

#include "backend.h"

namespace torchext {

// Whether the elements fill one run of memory, each once, in whatever order of dimensions.
inline bool is_dense(const Tensor& x) {
  if (x.is_contiguous() || x.numel() == 0) return true;
  std::vector<std::pair<int64_t, int64_t>> dims;  // (stride, size)
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (x.size(d) != 1) dims.emplace_back(x.stride(d), x.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// `x`, or, where it is neither contiguous nor channels_last, a copy of it that is.
inline Tensor contiguous_or_channels_last(const Tensor& x) {
  const bool channels_last = x.dim() == 4 && is_channels_last(x);
  return torch::stable::contiguous(x, channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                                    : torch::headeronly::MemoryFormat::Contiguous);
}

// `x`, or, where it is not dense, a copy of it that is.
inline Tensor densified(const Tensor& x) {
  return is_dense(x) ? x : contiguous_or_channels_last(x);
}

// A fresh tensor like `x`, which is dense: the same sizes and strides.
inline Tensor empty_as(const Tensor& x, ScalarType type) {
  return empty_strided(x, x.dim(), x.sizes().data(), x.strides().data(), type);
}
inline Tensor empty_as(const Tensor& x) { return empty_as(x, x.scalar_type()); }

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  const auto x = a.sizes(), y = b.sizes();
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

// `x`, or a copy of it, with its elements in the same places as those of `like`, which is dense.
inline Tensor laid_out_as(const Tensor& like, const Tensor& x) {
  const auto a = like.strides(), b = x.strides();
  if (std::equal(a.begin(), a.end(), b.begin())) return x;
  if (like.is_contiguous() && x.is_contiguous()) return x;
  Tensor copy = empty_as(like, x.scalar_type());
  copy_into(copy, x);
  return copy;
}

// The sizes of a tensor of any rank, in an error's words.
inline std::string shape_of(const Tensor& x) {
  std::ostringstream text;
  for (int64_t d = 0; d < x.dim(); ++d) text << (d ? ", " : "[") << x.size(d);
  return text.str() + (x.dim() ? "]" : "[]");
}

// A gradient or residual: of the sizes and the type of `x`.
inline void check_like(const char* op, const char* argument, const Tensor& tensor,
                       const Tensor& x) {
  check_tensor(op, argument, tensor);
  CHECK(same_sizes(tensor, x), op, ": ", argument, ": got shape ", shape_of(tensor), ", expected ",
        shape_of(x));
  CHECK(tensor.scalar_type() == x.scalar_type(), op, ": ", argument, ": got dtype ",
        torch::headeronly::toString(tensor.scalar_type()), ", expected the input's");
}

// The type that a kernel computes in, of which its statistics and weights are.
inline ScalarType compute_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor as_contiguous(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

// A fresh contiguous tensor on x's device.
inline Tensor empty_contiguous(const Tensor& x, const int64_t* sizes, int64_t rank,
                               ScalarType type) {
  std::vector<int64_t> strides(rank);
  int64_t next = 1;
  for (int64_t d = rank; d-- > 0; next *= std::max<int64_t>(sizes[d], 1)) strides[d] = next;
  return empty_strided(x, rank, sizes, strides.data(), type);
}
// Of the first `rank` sizes of `x`.
inline Tensor empty_leading(const Tensor& x, int64_t rank, ScalarType type) {
  return empty_contiguous(x, x.sizes().data(), rank, type);
}
inline Tensor empty_vector(const Tensor& x, int64_t size, ScalarType type) {
  return empty_contiguous(x, &size, 1, type);
}

// A weight or bias of `size` elements, as kernels of x's type read it; null where there is none.
inline std::optional<Tensor> weight_for(const char* op, const char* argument, const Tensor& x,
                                        const std::optional<Tensor>& weight, int64_t size) {
  if (!weight.has_value()) return std::nullopt;
  check_tensor(op, argument, *weight);
  floating_dtype(op, argument, *weight);
  CHECK(weight->numel() == size, op, ": ", argument, ": got ", weight->numel(),
        " elements, expected ", size);
  const ScalarType type = compute_type(x);
  return as_contiguous(weight->scalar_type() == type ? *weight : torch::stable::to(*weight, type));
}
// Statistics that a forward op returned.
inline Tensor statistics_for(const char* op, const char* argument, const Tensor& x,
                             const Tensor& statistics, int64_t size) {
  check_tensor(op, argument, statistics);
  CHECK(statistics.scalar_type() == compute_type(x), op, ": ", argument, ": got dtype ",
        torch::headeronly::toString(statistics.scalar_type()), ", expected ",
        torch::headeronly::toString(compute_type(x)));
  CHECK(statistics.numel() == size, op, ": ", argument, ": got ", statistics.numel(),
        " elements, expected ", size);
  return as_contiguous(statistics);
}

}  // namespace torchext
