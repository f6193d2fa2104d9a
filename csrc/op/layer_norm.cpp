// layer_norm and add_layer_norm: checks, allocation and registration.
#include "layer_norm.h"

#include "../common/dense.h"

namespace torchext {
namespace {

// How many leading dimensions the rows have, the rest being `size` elements.
int64_t leading_rank(const char* op, const Tensor& x, int64_t size) {
  int64_t rank = x.dim(), product = 1;
  while (rank > 0 && (product < size || rank == x.dim())) product *= x.size(--rank);
  CHECK(size > 0 && product == size && rank < x.dim(), op, ": normalized_size: got ", size,
        ", expected the product of the last sizes of ", shape_of(x));
  return rank;
}

struct Normalized {
  Tensor y, sum, mean, rstd;
};

Normalized normalize(const char* op, const Tensor& input, const Tensor* residual, int64_t size,
                     const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                     double eps) {
  check_tensor(op, "input", input);
  LayerNorm p{};
  p.dtype = floating_dtype(op, "input", input);
  const int64_t rank = leading_rank(op, input, size);
  const auto w = weight_for(op, "weight", input, weight, size);
  const auto b = weight_for(op, "bias", input, bias, size);
  const Tensor x = as_contiguous(input);
  Normalized result{empty_as(x), Tensor(), empty_leading(x, rank, compute_type(x)),
                    empty_leading(x, rank, compute_type(x))};
  Tensor other;
  if (residual) {
    check_like(op, "residual", *residual, input);
    other = as_contiguous(*residual);
    result.sum = empty_as(x);
    p.residual = memory_of(other);
    p.sum = memory_of(result.sum);
  }
  p.rows = x.numel() / size;
  p.size = size;
  p.eps = eps;
  p.x = memory_of(x);
  p.weight = memory_of(w);
  p.bias = memory_of(b);
  p.y = memory_of(result.y);
  p.mean = memory_of(result.mean);
  p.rstd = memory_of(result.rstd);
  if (p.rows > 0) launch(p, Context(x).queue);
  return result;
}

using Optional = std::optional<Tensor>;

std::tuple<Tensor, Tensor, Tensor> layer_norm(const Tensor& x, int64_t size, const Optional& weight,
                                              const Optional& bias, double eps) {
  const Normalized n = normalize("layer_norm", x, nullptr, size, weight, bias, eps);
  return {n.y, n.mean, n.rstd};
}

Tensor layer_norm_inference(const Tensor& x, int64_t size, const Optional& weight,
                            const Optional& bias, double eps) {
  return normalize("layer_norm", x, nullptr, size, weight, bias, eps).y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual,
                                                          int64_t size, const Optional& weight,
                                                          const Optional& bias, double eps) {
  const Normalized n = normalize("add_layer_norm", x, &residual, size, weight, bias, eps);
  return {n.y, n.sum, n.mean, n.rstd};
}

std::tuple<Tensor, Tensor> add_layer_norm_inference(const Tensor& x, const Tensor& residual,
                                                    int64_t size, const Optional& weight,
                                                    const Optional& bias, double eps) {
  const Normalized n = normalize("add_layer_norm", x, &residual, size, weight, bias, eps);
  return {n.y, n.sum};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(const Tensor& grad_y, const Tensor& input,
                                                       const Tensor& mean, const Tensor& rstd,
                                                       int64_t size, const Optional& weight,
                                                       double /*eps*/, bool of_weights) {
  const char* op = "layer_norm_backward";
  check_tensor(op, "input", input);
  const DType dtype = floating_dtype(op, "input", input);
  check_like(op, "grad_y", grad_y, input);
  const int64_t rows = input.numel() / std::max<int64_t>(size, 1);
  leading_rank(op, input, size);
  const auto m = statistics_for(op, "mean", input, mean, rows);
  const auto r = statistics_for(op, "rstd", input, rstd, rows);
  const auto w = weight_for(op, "weight", input, weight, size);
  const Tensor x = as_contiguous(input), g = as_contiguous(grad_y);
  Tensor grad_x = empty_as(x);
  const int64_t weights = of_weights ? size : 0;
  Tensor grad_weight = empty_vector(x, weights, compute_type(x));
  Tensor grad_bias = empty_vector(x, weights, compute_type(x));
  const LayerNormBackward p{dtype,
                            rows,
                            size,
                            memory_of(g),
                            memory_of(x),
                            memory_of(m),
                            memory_of(r),
                            memory_of(w),
                            memory_of(grad_x),
                            memory_of(of_weights ? &grad_weight : nullptr),
                            memory_of(of_weights ? &grad_bias : nullptr)};
  const Context context(x);
  if (rows > 0 || of_weights) launch(p, context.queue);  // without rows, it writes zeros
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("layer_norm", KERNEL(&layer_norm));
  library.impl("layer_norm_inference", KERNEL(&layer_norm_inference));
  library.impl("layer_norm_backward", KERNEL(&layer_norm_backward));
  library.impl("add_layer_norm", KERNEL(&add_layer_norm));
  library.impl("add_layer_norm_inference", KERNEL(&add_layer_norm_inference));
}

}  // namespace torchext
