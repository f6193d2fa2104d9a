// local_response_norm: checks, allocation and registration.
#include "local_response_norm.h"

#include "../common/dense.h"

namespace torchext {
namespace {

template <class P>
void set_shape(P& p, const char* op, const Tensor& x, int64_t size) {
  check_tensor(op, "input", x);
  p.dtype = floating_dtype(op, "input", x);
  CHECK(x.dim() >= 3, op, ": input: got ", x.dim(), " dimensions, expected at least 3 (N, C, ...)");
  CHECK(size > 0, op, ": size: got ", size, ", expected at least 1");
  p.outer = x.size(0);
  p.C = x.size(1);
  p.inner = 1;
  for (int64_t d = 2; d < x.dim(); ++d) p.inner *= x.size(d);
  p.size = std::min(size, int64_t{1} << 62);  // so that c + size is a number
}

// After set_shape(), `x` laid out as the kernel takes it: channels last are rows of channels.
template <class P>
Tensor laid_out(P& p, const Tensor& input) {
  const Tensor x = contiguous_or_channels_last(input);
  if (!x.is_contiguous()) {
    p.outer *= p.inner;
    p.inner = 1;
  }
  return x;
}

Tensor normalized(const Tensor& input, int64_t size, double alpha, double beta, double k,
                  Tensor* scale) {
  LocalResponseNorm p{};
  set_shape(p, "local_response_norm", input, size);
  const Tensor x = laid_out(p, input);
  Tensor y = empty_as(x);
  if (scale != nullptr) {
    *scale = empty_as(x, compute_type(x));
    p.scale = memory_of(*scale);
  }
  p.alpha = alpha / size;
  p.beta = beta;
  p.k = k;
  p.x = memory_of(x);
  p.y = memory_of(y);
  if (x.numel() > 0) launch(p, Context(x).queue);
  return y;
}

std::tuple<Tensor, Tensor> local_response_norm(const Tensor& x, int64_t size, double alpha,
                                               double beta, double k) {
  Tensor scale;
  Tensor y = normalized(x, size, alpha, beta, k, &scale);
  return {y, scale};
}

Tensor local_response_norm_inference(const Tensor& x, int64_t size, double alpha, double beta,
                                     double k) {
  return normalized(x, size, alpha, beta, k, nullptr);
}

Tensor local_response_norm_backward(const Tensor& grad_y, const Tensor& input, const Tensor& result,
                                    const Tensor& scale, int64_t size, double alpha, double beta,
                                    double) {
  const char* op = "local_response_norm_backward";
  LocalResponseNormBackward p{};
  set_shape(p, op, input, size);
  check_like(op, "grad_y", grad_y, input);
  check_like(op, "y", result, input);
  check_tensor(op, "scale", scale);
  CHECK(scale.scalar_type() == compute_type(input), op, ": scale: got dtype ",
        torch::headeronly::toString(scale.scalar_type()), ", expected ",
        torch::headeronly::toString(compute_type(input)));
  CHECK(same_sizes(scale, input), op, ": scale: got shape ", shape_of(scale), ", expected ",
        shape_of(input));
  const Tensor x = laid_out(p, input), g = laid_out_as(x, grad_y), y = laid_out_as(x, result);
  const Tensor s = laid_out_as(x, scale);
  Tensor grad_x = empty_as(x);
  p.alpha = alpha / size;
  p.beta = beta;
  p.grad_y = memory_of(g);
  p.x = memory_of(x);
  p.y = memory_of(y);
  p.scale = memory_of(s);
  p.grad_x = memory_of(grad_x);
  if (x.numel() > 0) launch(p, Context(x).queue);
  return grad_x;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("local_response_norm", KERNEL(&local_response_norm));
  library.impl("local_response_norm_inference", KERNEL(&local_response_norm_inference));
  library.impl("local_response_norm_backward", KERNEL(&local_response_norm_backward));
}

}  // namespace torchext
