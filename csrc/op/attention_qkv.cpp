// attention_qkv: attention of packed queries, keys and values [B, N, 3, H, D], read where they lie;
// y is [B, N, H * D]. Checks, allocation and registration, compiled into each backend's library.
#include <cmath>

#include "attention_shape.h"

namespace torchext {
namespace {

// Matrices (batch, heads, 1) of one third of qkv; `third` moves a pointer there.
Matrices packed(const Tensor& qkv) {
  const Dims s = strides_of(qkv);
  return {{s[0], s[3], 0}, s[1], s[4]};
}
template <class Void>
Void* third(const Tensor& qkv, int which) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return static_cast<Byte*>(memory_of(qkv)) + which * strides_of(qkv)[2] * qkv.element_size();
}

// Of [B, N, H * D].
Matrices merged(const Tensor& y, int64_t D) {
  const Dims s = strides_of(y);
  return {{s[0], D * s[2], 0}, s[1], s[2]};
}

Checked checked(const char* op, const Tensor& qkv, const std::optional<Tensor>& mask,
                bool is_causal, std::optional<double> scale) {
  check_tensor(op, "qkv", qkv);
  const Dims sizes = sizes_of(qkv);
  CHECK(qkv.dim() == 5 && sizes[2] == 3, op, ": qkv: got shape ", sizes,
        ", expected [batch, length, 3, heads, channels]");
  CHECK(sizes[4] > 0, op, ": qkv: got 0 channels, expected at least 1");
  Checked c{};
  AttentionShape& p = c.shape;
  p.dtype = floating_dtype(op, "qkv", qkv);
  p.leads = 3;
  p.lead[0] = sizes[0], p.lead[1] = sizes[3], p.lead[2] = 1;
  p.matrices = mul(op, "qkv", sizes[0], sizes[3]);
  p.Lq = p.Lk = sizes[1];
  p.D = p.Dv = sizes[4];
  p.scale = scale.value_or(1 / std::sqrt(static_cast<double>(p.D)));
  p.causal = is_causal;
  p.q = third<const void>(qkv, 0), p.k = third<const void>(qkv, 1);
  p.v = third<const void>(qkv, 2);
  p.q_stride = p.k_stride = p.v_stride = packed(qkv);
  const int64_t scores[] = {sizes[0], sizes[3], sizes[1], sizes[1]};
  c.scores = Dims(scores, 4);
  c.heads = sizes[3];
  set_mask(op, c, mask, qkv);
  return c;
}

Dims y_sizes(const char* op, const Checked& c) {
  const int64_t sizes[] = {c.scores[0], c.scores[2], mul(op, "qkv", c.scores[1], c.shape.D)};
  return Dims(sizes, 3);
}

Tensor empty_y(const char* op, const Tensor& qkv, const Checked& c) {
  return empty_dense(op, qkv, y_sizes(op, c), false, qkv.scalar_type());
}

void launch_forward(const Tensor& qkv, const Checked& c, const Tensor& y, void* logsumexp) {
  Attention p{};
  static_cast<AttentionShape&>(p) = c.shape;
  p.y = memory_of(y);
  p.y_stride = merged(y, p.D);
  p.logsumexp = logsumexp;
  if (y.numel() > 0) launch(p, Context(qkv).queue);
}

std::tuple<Tensor, Tensor> attention_qkv(const Tensor& qkv, const std::optional<Tensor>& mask,
                                         bool is_causal, std::optional<double> scale) {
  const char* op = "attention_qkv";
  const Checked c = checked(op, qkv, mask, is_causal, scale);
  Tensor y = empty_y(op, qkv, c);
  Tensor logsumexp = empty_dense(op, qkv, rows_of(c.scores), false, compute_type(qkv));
  launch_forward(qkv, c, y, memory_of(logsumexp));
  return {y, logsumexp};
}

Tensor attention_qkv_inference(const Tensor& qkv, const std::optional<Tensor>& mask, bool is_causal,
                               std::optional<double> scale) {
  const char* op = "attention_qkv";
  const Checked c = checked(op, qkv, mask, is_causal, scale);
  Tensor y = empty_y(op, qkv, c);
  launch_forward(qkv, c, y, nullptr);
  return y;
}

std::tuple<Tensor, Tensor> attention_qkv_backward(const Tensor& grad_y,
                                                  const Tensor& grad_logsumexp, const Tensor& qkv,
                                                  const std::optional<Tensor>& mask,
                                                  const Tensor& y, const Tensor& logsumexp,
                                                  bool is_causal, std::optional<double> scale,
                                                  bool mask_grad) {
  const char* op = "attention_qkv_backward";
  const Checked c = checked(op, qkv, mask, is_causal, scale);
  AttentionBackward p{};
  static_cast<AttentionShape&>(p) = c.shape;
  check_like_query(op, "grad_y", grad_y, qkv);
  check_sizes(op, "grad_y", sizes_of(grad_y), y_sizes(op, c));
  check_like_query(op, "y", y, qkv);
  check_sizes(op, "y", sizes_of(y), y_sizes(op, c));
  Tensor dense_logsumexp, dense_grad;
  const Dims rows = rows_of(c.scores);
  p.logsumexp = rows_pointer(op, "logsumexp", logsumexp, qkv, rows, dense_logsumexp);
  p.grad_logsumexp = rows_pointer(op, "grad_logsumexp", grad_logsumexp, qkv, rows, dense_grad);
  p.grad_y = memory_of(grad_y), p.y = memory_of(y);
  p.grad_y_stride = merged(grad_y, p.D), p.y_stride = merged(y, p.D);
  Tensor grad_qkv = empty_dense(op, qkv, sizes_of(qkv), false, qkv.scalar_type());
  p.grad_q = third<void>(grad_qkv, 0), p.grad_k = third<void>(grad_qkv, 1);
  p.grad_v = third<void>(grad_qkv, 2);
  p.grad_q_stride = p.grad_k_stride = p.grad_v_stride = packed(grad_qkv);
  Tensor grad_mask = mask_gradient(op, p, c, mask, qkv, mask_grad);
  if (p.matrices > 0) {
    launch(p, Context(qkv).queue);
  } else {
    fill(grad_mask, 0);  // of an empty batch
  }
  return {grad_qkv, grad_mask};
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("attention_qkv", KERNEL(&attention_qkv));
  library.impl("attention_qkv_inference", KERNEL(&attention_qkv_inference));
  library.impl("attention_qkv_backward", KERNEL(&attention_qkv_backward));
}

}  // namespace torchext
