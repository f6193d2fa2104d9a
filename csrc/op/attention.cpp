// attention: checks, allocation and registration, compiled into each backend's library.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "../common/backend.h"
#include "attention_shape.h"

namespace torchext {
namespace {

struct Inputs {
  const Tensor &query, &key, &value;
  const std::optional<Tensor>& mask;
};

// What `key` or `value` must be: the query's leading dimensions, but of heads of its own.
Dims key_sizes(const Dims& query, int64_t heads, int64_t length, int64_t columns) {
  Dims sizes = query;
  if (sizes.rank > 2) sizes[-3] = heads;
  sizes[-2] = length;
  sizes[-1] = columns;
  return sizes;
}

Checked checked(const char* op, const Inputs& in, bool is_causal, std::optional<double> scale,
                bool enable_gqa) {
  check_tensor(op, "query", in.query);
  check_like_query(op, "key", in.key, in.query);
  check_like_query(op, "value", in.value, in.query);
  const Dims q = sizes_of(in.query), k = sizes_of(in.key), v = sizes_of(in.value);
  CHECK(in.query.dim() >= 2 && in.query.dim() <= Dims::kMost, op, ": query: got ", in.query.dim(),
        " dimensions, expected 2 to ", Dims::kMost, " (..., heads, length, channels)");
  CHECK(k.rank == q.rank, op, ": key: got ", k.rank, " dimensions, expected the query's, ", q.rank);
  CHECK(v.rank == q.rank, op, ": value: got ", v.rank, " dimensions, expected the query's, ",
        q.rank);
  CHECK(!enable_gqa || q.rank > 2, op, ": query: got 2 dimensions, expected heads for enable_gqa");
  Checked c{};
  AttentionShape& p = c.shape;
  p.dtype = floating_dtype(op, "query", in.query);
  p.Lq = q[-2], p.Lk = k[-2], p.D = q[-1], p.Dv = v[-1];
  CHECK(p.D > 0, op, ": query: got 0 channels, expected at least 1");
  c.heads = q.rank > 2 ? (enable_gqa ? k[-3] : q[-3]) : 1;
  if (enable_gqa) {
    CHECK(c.heads > 0 && q[-3] % c.heads == 0, op, ": key: got ", c.heads,
          " heads, expected a divisor of the query's, ", q[-3]);
  }
  check_sizes(op, "key", k, key_sizes(q, c.heads, p.Lk, p.D));
  check_sizes(op, "value", v, key_sizes(q, c.heads, p.Lk, p.Dv));
  p.leads = 0, p.matrices = 1;
  for (int d = 0; d < q.rank - 2; ++d) {
    p.lead[p.leads++] = d == q.rank - 3 ? c.heads : q[d];
    p.matrices = mul(op, "query", p.matrices, q[d]);
  }
  p.lead[p.leads++] = q.rank > 2 && c.heads > 0 ? q[-3] / c.heads : 1;
  p.scale = scale.value_or(1 / std::sqrt(static_cast<double>(p.D)));
  p.causal = is_causal;
  c.scores = q;
  c.scores[-1] = p.Lk;
  set_mask(op, c, in.mask, in.query);
  p.q = memory_of(in.query), p.k = memory_of(in.key), p.v = memory_of(in.value);
  p.q_stride = matrices_of(in.query, c.heads);
  p.k_stride = matrices_of(in.key, c.heads);
  p.v_stride = matrices_of(in.value, c.heads);
  return c;
}

void set_dropout(const char* op, AttentionShape& p, double probability, int64_t seed) {
  CHECK(probability >= 0 && probability <= 1, op, ": dropout_p: got ", probability,
        ", expected 0 to 1");
  constexpr double kWords = 4294967296.0;
  p.threshold = static_cast<uint32_t>(std::min(std::llround(probability * kWords), 0xffffffffLL));
  p.share = probability < 1 ? 1 / (1 - probability) : 0;
  p.seed = static_cast<uint64_t>(seed);
}

// A dense tensor; from 4 dimensions on its heads lie side by side in a row, as in torch's.
Tensor empty_heads(const char* op, const Tensor& like, Dims sizes) {
  const bool inside = sizes.rank >= 4;
  if (inside) std::swap(sizes[-3], sizes[-2]);
  Dims strides = dense_strides(op, sizes, false);
  if (inside) {
    std::swap(sizes[-3], sizes[-2]);
    std::swap(strides[-3], strides[-2]);
  }
  return empty_strided(like, sizes, strides, like.scalar_type());
}

Dims with_columns(Dims sizes, int64_t columns) {
  sizes[-1] = columns;
  return sizes;
}

Tensor empty_y(const char* op, const Tensor& query, const Checked& c) {
  return empty_heads(op, query, with_columns(sizes_of(query), c.shape.Dv));
}

void launch_forward(const Tensor& query, const Checked& c, const Tensor& y, void* logsumexp) {
  Attention p{};
  static_cast<AttentionShape&>(p) = c.shape;
  p.y = memory_of(y);
  p.y_stride = matrices_of(y, c.heads);
  p.logsumexp = logsumexp;
  if (p.matrices > 0 && p.Lq > 0) launch(p, Context(query).queue);
}

std::tuple<Tensor, Tensor> attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                     const std::optional<Tensor>& mask, bool is_causal,
                                     std::optional<double> scale, bool enable_gqa, double dropout_p,
                                     int64_t seed) {
  const char* op = "attention";
  Checked c = checked(op, {query, key, value, mask}, is_causal, scale, enable_gqa);
  set_dropout(op, c.shape, dropout_p, seed);
  Tensor y = empty_y(op, query, c);
  Tensor logsumexp = empty_dense(op, query, rows_of(sizes_of(query)), false, compute_type(query));
  launch_forward(query, c, y, memory_of(logsumexp));
  return {y, logsumexp};
}

Tensor attention_inference(const Tensor& query, const Tensor& key, const Tensor& value,
                           const std::optional<Tensor>& mask, bool is_causal,
                           std::optional<double> scale, bool enable_gqa) {
  const char* op = "attention";
  const Checked c = checked(op, {query, key, value, mask}, is_causal, scale, enable_gqa);
  Tensor y = empty_y(op, query, c);
  launch_forward(query, c, y, nullptr);
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_y, const Tensor& grad_logsumexp, const Tensor& query, const Tensor& key,
    const Tensor& value, const std::optional<Tensor>& mask, const Tensor& y,
    const Tensor& logsumexp, bool is_causal, std::optional<double> scale, bool enable_gqa,
    double dropout_p, int64_t seed, bool mask_grad) {
  const char* op = "attention_backward";
  Checked c = checked(op, {query, key, value, mask}, is_causal, scale, enable_gqa);
  set_dropout(op, c.shape, dropout_p, seed);
  AttentionBackward p{};
  static_cast<AttentionShape&>(p) = c.shape;
  const Dims y_sizes = with_columns(sizes_of(query), p.Dv);
  check_like_query(op, "grad_y", grad_y, query);
  check_sizes(op, "grad_y", sizes_of(grad_y), y_sizes);
  check_like_query(op, "y", y, query);
  check_sizes(op, "y", sizes_of(y), y_sizes);
  Tensor dense_logsumexp, dense_grad;
  p.logsumexp =
      rows_pointer(op, "logsumexp", logsumexp, query, rows_of(sizes_of(query)), dense_logsumexp);
  p.grad_logsumexp = rows_pointer(op, "grad_logsumexp", grad_logsumexp, query,
                                  rows_of(sizes_of(query)), dense_grad);
  p.grad_y = memory_of(grad_y), p.y = memory_of(y);
  p.grad_y_stride = matrices_of(grad_y, c.heads), p.y_stride = matrices_of(y, c.heads);

  Tensor grad_q = empty_heads(op, query, sizes_of(query));
  Tensor grad_k = empty_heads(op, query, sizes_of(key));
  Tensor grad_v = empty_heads(op, query, sizes_of(value));
  p.grad_q = memory_of(grad_q), p.grad_k = memory_of(grad_k), p.grad_v = memory_of(grad_v);
  p.grad_q_stride = matrices_of(grad_q, c.heads);
  p.grad_k_stride = matrices_of(grad_k, c.heads);
  p.grad_v_stride = matrices_of(grad_v, c.heads);

  Tensor grad_mask = mask_gradient(op, p, c, mask, query, mask_grad);
  if (p.matrices > 0) {
    launch(p, Context(query).queue);
  } else {
    fill(grad_mask, 0);  // of an empty batch; the others are empty
  }
  return {grad_q, grad_k, grad_v, grad_mask};
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("attention", KERNEL(&attention));
  library.impl("attention_inference", KERNEL(&attention_inference));
  library.impl("attention_backward", KERNEL(&attention_backward));
}

}  // namespace torchext
