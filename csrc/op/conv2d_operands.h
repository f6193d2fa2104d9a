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
  return dense->data_ptr();
}

inline bool output_is_channels_last(const Tensor& x, const Tensor& weight) {
  return x.dim() == 4 && (is_channels_last(x) || is_channels_last(weight));
}

// A convolution of x and weight without bias, residual and result.
inline Conv2d convolution_of(const char* op, const Tensor& x, const Tensor& weight,
                             const ConvArguments& arguments, int64_t activation) {
  check_tensor(op, "input", x);
  check_companion(op, "weight", weight, x);
  Conv2d p{};
  static_cast<Conv2dShape&>(p) = make_conv2d(op, sizes_of(x), sizes_of(weight), arguments);
  p.dtype = floating_dtype(op, "input", x);
  p.activation = activation_of(op, activation);
  p.x = x.data_ptr();
  p.weight = weight.data_ptr();
  p.x_stride = nchw_strides(x);
  p.w_stride = nchw_strides(weight);
  return p;
}

inline void set_residual(const char* op, Conv2d& p, const std::optional<Tensor>& residual,
                         const Tensor& x) {
  if (!residual.has_value()) return;
  check_companion(op, "residual", *residual, x);
  check_shape(op, "residual", sizes_of(*residual), conv_output_sizes(sizes_of(x), p));
  p.residual = residual->data_ptr();
  p.residual_stride = nchw_strides(*residual);
}

// A fresh result for the convolution.
inline Tensor set_result(const char* op, Conv2d& p, const Tensor& x, const Tensor& weight) {
  Tensor y = empty_dense(op, x, conv_output_sizes(sizes_of(x), p),
                         output_is_channels_last(x, weight), x.scalar_type());
  p.y = y.data_ptr();
  p.y_stride = nchw_strides(y);
  return y;
}

}  // namespace torchext
