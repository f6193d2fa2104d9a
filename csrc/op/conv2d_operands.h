// The operands of a convolution, checked: for the ops that are made of one.
#pragma once

#include "../common/backend.h"
#include "conv2d.h"
#include "conv2d_shape.h"

namespace torchext {

inline Activation activation_of(const char* op, int64_t kind, const char* argument = "activation") {
  CHECK(kind >= 0 && kind < kActivations, op, ": ", argument, ": got ", kind,
        ", expected one of torchext.ops._activation");
  return static_cast<Activation>(kind);
}

inline Dims vector_of(int64_t size) { return Dims(&size, 1); }

// A bias of `size` elements, or null.
inline const void* bias_of(const char* op, const std::optional<Tensor>& bias, int64_t size,
                           const Tensor& first, std::optional<Tensor>& dense) {
  if (!bias.has_value()) return nullptr;
  check_companion(op, "bias", *bias, first);
  check_shape(op, "bias", sizes_of(*bias), vector_of(size));
  dense = torch::stable::contiguous(*bias);
  return memory_of(*dense);
}

inline bool output_is_channels_last(const Tensor& x, const Tensor& weight) {
  return x.dim() == 4 && (is_channels_last(x) || is_channels_last(weight));
}

// A convolution of x with a weight of these sizes, without the weight itself, bias, residual and
// result.
inline Conv2d convolution_over(const char* op, const Tensor& x, const Dims& weight,
                               const ConvArguments& arguments, int64_t activation) {
  check_tensor(op, "input", x);
  Conv2d p{};
  static_cast<Conv2dShape&>(p) = make_conv2d(op, sizes_of(x), weight, arguments);
  p.dtype = floating_dtype(op, "input", x);
  p.activation = activation_of(op, activation);
  p.x = memory_of(x);
  p.x_stride = nchw_strides(x);
  return p;
}
inline Conv2d convolution_of(const char* op, const Tensor& x, const Tensor& weight,
                             const ConvArguments& arguments, int64_t activation) {
  check_tensor(op, "input", x);
  check_companion(op, "weight", weight, x);
  Conv2d p = convolution_over(op, x, sizes_of(weight), arguments, activation);
  p.weight = memory_of(weight);
  p.w_stride = nchw_strides(weight);
  return p;
}

// Weights of so many taps that were packed before: torchext/ops/_packed.py says how. `pairs`:
// whether bf16 may be in pairs; then tells whether it is.
inline Tensor panels_of(const char* op, const Tensor& panels, const Tensor& x, const Conv2dShape& p,
                        int64_t taps, bool* pairs = nullptr) {
  check_tensor(op, "panels", panels);
  const bool wide = p.dtype == DType::f64;
  const bool paired = pairs != nullptr && p.dtype == DType::bf16 && p.C / p.groups % 2 == 0 &&
                      panels.scalar_type() == ScalarType::BFloat16;
  if (paired) {
    CHECK(takes_pairs(), op,
          ": panels: got pairs of bfloat16, expected Float where TORCHEXT_ISA is"
          " not avx512_bf16");
    *pairs = true;
  }
  CHECK(paired || panels.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float), op,
        ": panels: got dtype ", torch::headeronly::toString(panels.scalar_type()), ", expected ",
        wide ? "Double" : "Float", " for an input of ",
        torch::headeronly::toString(x.scalar_type()));
  const int64_t columns = wide ? 16 : 32, blocks = (p.O / p.groups - 1) / columns + 1;
  const int64_t in_one = paired ? 2 : 1, channels = p.C / p.groups / in_one;
  int64_t rows = p.groups;
  for (const int64_t size : {blocks, channels, taps}) rows = mul(op, "panels", rows, size);
  const int64_t expected[] = {add(op, "panels", rows, 1), columns * in_one};
  check_shape(op, "panels", sizes_of(panels), Dims(expected, 2));
  return torch::stable::contiguous(panels);
}

inline void set_residual(const char* op, Conv2d& p, const std::optional<Tensor>& residual,
                         const Tensor& x) {
  if (!residual.has_value()) return;
  check_companion(op, "residual", *residual, x);
  check_shape(op, "residual", sizes_of(*residual), conv_output_sizes(sizes_of(x), p));
  p.residual = memory_of(*residual);
  p.residual_stride = nchw_strides(*residual);
}

// A fresh result for the convolution.
inline Tensor set_result(const char* op, Conv2d& p, const Tensor& x, bool channels_last) {
  Tensor y = empty_dense(op, x, conv_output_sizes(sizes_of(x), p), channels_last, x.scalar_type());
  p.y = memory_of(y);
  p.y_stride = nchw_strides(y);
  return y;
}

}  // namespace torchext
