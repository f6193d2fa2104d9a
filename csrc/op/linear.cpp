// linear: y = act(x w^T + bias + residual), a convolution of one tap over a row of pixels: checks,
// allocation and registration.
#include <algorithm>

#include "conv2d_operands.h"

namespace torchext {
namespace {

using Sizes = std::vector<int64_t>;

Sizes all_sizes(const Tensor& x) {
  const auto sizes = x.sizes();
  return Sizes(sizes.begin(), sizes.end());
}

std::string shown(const Sizes& sizes) {
  std::ostringstream text;
  for (size_t d = 0; d < sizes.size(); ++d) text << (d ? ", " : "[") << sizes[d];
  return sizes.empty() ? "[]" : text.str() + "]";
}

// A tensor that goes with `first`, of a shape that is known; contiguous.
Tensor companion(const char* op, const char* argument, const Tensor& tensor, const Tensor& first,
                 const Sizes& sizes) {
  check_companion(op, argument, tensor, first);
  CHECK(all_sizes(tensor) == sizes, op, ": ", argument, ": got shape ", shown(all_sizes(tensor)),
        ", expected ", shown(sizes));
  return torch::stable::contiguous(tensor);
}

// A contiguous tensor of `like`'s type.
Tensor empty_of(const char* op, const Tensor& like, const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t step = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    step = mul(op, "output", step, std::max(sizes[d], int64_t{1}));
  }
  return empty_strided(like, static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                       like.scalar_type());
}

void check_matrix(const char* op, const char* argument, const Tensor& x) {
  check_tensor(op, argument, x);
  CHECK(x.dim() >= 1, op, ": ", argument, ": got a scalar, expected at least 1 dimension");
}

void check_weight(const char* op, const Tensor& weight, const Tensor& first) {
  check_tensor(op, "weight", weight);
  CHECK(weight.dim() == 2, op, ": weight: got ", weight.dim(), " dimensions, expected 2 (out, in)");
  check_companion(op, "weight", weight, first);
}

Conv2dShape linear_shape(DType dtype, int64_t M, int64_t C, int64_t O) {
  Conv2dShape shape = shape_of_rows(dtype, M, C, O);
  shape.linear = true;
  return shape;
}
Strides rows_of(int64_t length) { return {0, 1, 0, length}; }
Strides weight_strides(const Tensor& weight) { return {weight.stride(0), weight.stride(1), 0, 0}; }

int64_t rows_in(const Sizes& sizes) {
  int64_t rows = 1;
  for (size_t d = 0; d + 1 < sizes.size(); ++d) rows *= sizes[d];
  return rows;
}

using Optional = std::optional<Tensor>;

// The product with a weight of `sizes`, which `set_weight` puts in.
template <class SetWeight>
Tensor product(const char* op, const Tensor& input, const Pair& size, SetWeight set_weight,
               const Optional& bias, const Optional& residual, int64_t activation) {
  const auto [O, C] = size;
  Sizes sizes = all_sizes(input);
  const int64_t M = rows_in(sizes);
  CHECK(sizes.back() == C, op, ": input: got ", sizes.back(), " features, expected ", C);
  sizes.back() = O;
  Conv2d p{};
  static_cast<Conv2dShape&>(p) = linear_shape(floating_dtype(op, "input", input), M, C, O);
  set_weight(p);
  const Tensor x = torch::stable::contiguous(input);
  Tensor y = empty_of(op, x, sizes);
  p.activation = activation_of(op, activation);
  std::optional<Tensor> dense_bias, dense_residual;
  if (bias.has_value()) {
    dense_bias = companion(op, "bias", *bias, input, {O});
    p.bias = memory_of(*dense_bias);
  }
  if (residual.has_value()) {
    dense_residual = companion(op, "residual", *residual, input, sizes);
    p.residual = memory_of(*dense_residual);
  }
  p.x = memory_of(x);
  p.y = memory_of(y);
  p.x_stride = rows_of(C);
  p.residual_stride = p.y_stride = rows_of(O);
  if (y.numel() > 0) launch(p, Context(x).queue);
  return y;
}

Tensor linear(const Tensor& input, const Tensor& weight, const Optional& bias,
              const Optional& residual, int64_t activation) {
  const char* op = "linear";
  check_matrix(op, "input", input);
  floating_dtype(op, "input", input);
  check_weight(op, weight, input);
  const auto set_weight = [&](Conv2d& p) {
    p.weight = memory_of(weight);
    p.w_stride = weight_strides(weight);
  };
  return product(op, input, {weight.size(0), weight.size(1)}, set_weight, bias, residual,
                 activation);
}

#if TORCHEXT_LIBRARY_CPU
Tensor linear_packed(const Tensor& input, const Tensor& panels, int64_t out_features,
                     const Optional& bias, const Optional& residual, int64_t activation) {
  const char* op = "linear_packed_inference";
  check_matrix(op, "input", input);
  CHECK(out_features > 0, op, ": out_features: got ", out_features, ", expected at least 1");
  std::optional<Tensor> dense;
  const auto set_weight = [&](Conv2d& p) {
    dense = panels_of(op, panels, input, p, 1, &p.pairs);
    p.panels = memory_of(*dense);
  };
  return product(op, input, {out_features, input.size(-1)}, set_weight, bias, residual, activation);
}

#endif

template <class P>
void set_gate(const char* op, P& p, const std::optional<Tensor>& y, const Tensor& grad_y,
              int64_t activation, std::optional<Tensor>& dense) {
  p.activation = activation_of(op, activation);
  if (!y.has_value()) return;
  dense = companion(op, "y", *y, grad_y, all_sizes(grad_y));
  p.y = memory_of(*dense);
  p.y_stride = rows_of(p.O);
}

Tensor linear_backward_input(const Tensor& grad_y, const std::optional<Tensor>& y,
                             const Tensor& weight, int64_t activation) {
  const char* op = "linear_backward_input";
  check_matrix(op, "grad_y", grad_y);
  const DType dtype = floating_dtype(op, "grad_y", grad_y);
  check_weight(op, weight, grad_y);
  Sizes sizes = all_sizes(grad_y);
  const int64_t O = weight.size(0), C = weight.size(1), M = rows_in(sizes);
  CHECK(sizes.back() == O, op, ": grad_y: got ", sizes.back(), " features, expected ", O);
  sizes.back() = C;
  const Tensor grad = torch::stable::contiguous(grad_y);
  Tensor grad_x = empty_of(op, grad, sizes);
  Conv2dBackwardInput p{};
  static_cast<Conv2dShape&>(p) = linear_shape(dtype, M, C, O);
  std::optional<Tensor> dense_y;
  set_gate(op, p, y, grad_y, activation, dense_y);
  p.grad_y = memory_of(grad);
  p.weight = memory_of(weight);
  p.grad_x = memory_of(grad_x);
  p.grad_y_stride = rows_of(O);
  p.w_stride = weight_strides(weight);
  p.grad_x_stride = rows_of(C);
  if (grad_x.numel() > 0) launch(p, Context(grad).queue);
  return grad_x;
}

std::tuple<Tensor, Tensor> linear_backward_weight(const Tensor& grad_y,
                                                  const std::optional<Tensor>& y, const Tensor& x,
                                                  int64_t activation, bool of_bias) {
  const char* op = "linear_backward_weight";
  check_matrix(op, "grad_y", grad_y);
  check_matrix(op, "x", x);
  const DType dtype = floating_dtype(op, "grad_y", grad_y);
  const Sizes sizes = all_sizes(grad_y);
  Sizes x_sizes = sizes;
  x_sizes.back() = x.size(-1);
  const int64_t O = sizes.back(), C = x_sizes.back(), M = rows_in(sizes);
  const Tensor dense_x = companion(op, "x", x, grad_y, x_sizes);
  const Tensor grad = torch::stable::contiguous(grad_y);
  Tensor grad_weight = empty_of(op, grad, {O, C});
  Tensor grad_bias = empty_of(op, grad, {of_bias ? O : 0});
  Conv2dBackwardWeight p{};
  static_cast<Conv2dShape&>(p) = linear_shape(dtype, M, C, O);
  std::optional<Tensor> dense_y;
  set_gate(op, p, y, grad_y, activation, dense_y);
  p.grad_y = memory_of(grad);
  p.x = memory_of(dense_x);
  p.grad_weight = memory_of(grad_weight);
  p.grad_bias = memory_of(of_bias ? &grad_bias : nullptr);
  p.grad_y_stride = rows_of(O);
  p.x_stride = rows_of(C);
  p.w_stride = {C, 1, 0, 0};
  if (O > 0) launch(p, Context(grad).queue);  // of no rows: zeros
  return {grad_weight, grad_bias};
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("linear", KERNEL(&linear));
  library.impl("linear_inference", KERNEL(&linear));
#if TORCHEXT_LIBRARY_CPU  // whose kernels' panels these are
  library.impl("linear_packed_inference", KERNEL(&linear_packed));
#endif
  library.impl("linear_backward_input", KERNEL(&linear_backward_input));
  library.impl("linear_backward_weight", KERNEL(&linear_backward_weight));
}

}  // namespace torchext
