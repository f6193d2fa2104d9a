// conv2d and conv_transpose2d: checks, allocation and registration, compiled into each backend's
// library.
#include "conv2d_operands.h"

namespace torchext {
namespace {

Strides weight_strides(const Tensor& weight) { return nchw_strides(weight); }

// The rest of a convolution whose input and weights are set.
template <class P>
Tensor finish(const char* op, P& p, const Tensor& x, const std::optional<Tensor>& bias,
              const std::optional<Tensor>& residual, bool channels_last) {
  std::optional<Tensor> dense_bias;
  p.bias = bias_of(op, bias, p.O, x, dense_bias);
  set_residual(op, p, residual, x);
  Tensor y = set_result(op, p, x, channels_last);
  if (y.numel() > 0) launch(p, Context(x).queue);
  return y;
}

Tensor conv2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              const std::optional<Tensor>& residual, const IntList& stride, const IntList& padding,
              const IntList& dilation, int64_t groups, int64_t activation) {
  const char* op = "conv2d";
  Conv2d p = convolution_of(op, x, weight, {stride, padding, dilation, groups}, activation);
  return finish(op, p, x, bias, residual, output_is_channels_last(x, weight));
}

#if TORCHEXT_LIBRARY_CPU
Tensor conv2d_packed(const Tensor& x, const Tensor& panels, const IntList& weight_size,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                     const IntList& stride, const IntList& padding, const IntList& dilation,
                     int64_t groups, int64_t activation) {
  const char* op = "conv2d_packed_inference";
  CHECK(weight_size.size() == 4, op, ": weight_size: got ", weight_size.size(),
        " values, expected 4");
  Conv2d p = convolution_over(op, x, Dims(weight_size.data(), 4),
                              {stride, padding, dilation, groups}, activation);
  const int64_t taps = mul(op, "panels", p.h.kernel, p.w.kernel);
  const Tensor dense = panels_of(op, panels, x, p, taps, &p.pairs);
  p.panels = memory_of(dense);
  return finish(op, p, x, bias, residual, x.dim() == 4);
}

Tensor conv2d_winograd(const Tensor& x, const Tensor& panels, int64_t out_channels,
                       const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
                       const IntList& padding, int64_t activation) {
  const char* op = "conv2d_winograd_inference";
  check_tensor(op, "input", x);
  CHECK(x.dim() == 4, op, ": input: got ", x.dim(), " dimensions, expected 4");
  const IntList one{1, 1};
  const int64_t size[] = {out_channels, x.size(1), 3, 3};
  Conv2dWinograd p{convolution_over(op, x, Dims(size, 4), {one, padding, one, 1}, activation)};
  const Tensor dense = panels_of(op, panels, x, p, kWinogradPoints);
  p.panels = memory_of(dense);
  return finish(op, p, x, bias, residual, true);
}

#endif

// The result of a fused activation, whose derivative gates grad_y; or none.
template <class P>
void set_gate(const char* op, P& p, const std::optional<Tensor>& y, const Tensor& grad_y,
              int64_t activation) {
  p.activation = activation_of(op, activation);
  if (!y.has_value()) return;
  CHECK(p.activation <= Activation::relu6, op, ": activation: got ", activation,
        ", expected none, relu or relu6, whose derivative y tells");
  check_companion(op, "y", *y, grad_y);
  check_shape(op, "y", sizes_of(*y), sizes_of(grad_y));
  p.y = memory_of(*y);
  p.y_stride = nchw_strides(*y);
}

Tensor conv2d_backward_input(const Tensor& grad_y, const std::optional<Tensor>& y,
                             const Tensor& weight, const IntList& input_size, bool channels_last,
                             const IntList& stride, const IntList& padding, const IntList& dilation,
                             int64_t groups, int64_t activation) {
  const char* op = "conv2d_backward_input";
  check_tensor(op, "grad_y", grad_y);
  check_companion(op, "weight", weight, grad_y);
  const Pair size = pair_of(op, "input_size", input_size, 0);
  const Dims sizes = sizes_of(grad_y);
  CHECK(sizes.rank == 3 || sizes.rank == 4, op, ": grad_y: got ", sizes.rank,
        " dimensions, expected 3 or 4");
  CHECK(weight.dim() == 4, op, ": weight: got ", weight.dim(), " dimensions, expected 4");
  Dims x_sizes = with_spatial_size(sizes, size.first, size.second);
  x_sizes[-3] = mul(op, "groups", sizes_of(weight)[1], groups);
  Conv2dBackwardInput p{};
  static_cast<Conv2dShape&>(p) =
      make_conv2d(op, x_sizes, sizes_of(weight), {stride, padding, dilation, groups});
  check_shape(op, "grad_y", sizes, conv_output_sizes(x_sizes, p));
  p.dtype = floating_dtype(op, "grad_y", grad_y);
  set_gate(op, p, y, grad_y, activation);
  Tensor grad_x =
      empty_dense(op, grad_y, x_sizes, channels_last && sizes.rank == 4, grad_y.scalar_type());
  p.grad_y = memory_of(grad_y);
  p.weight = memory_of(weight);
  p.grad_x = memory_of(grad_x);
  p.grad_y_stride = nchw_strides(grad_y);
  p.w_stride = weight_strides(weight);
  p.grad_x_stride = nchw_strides(grad_x);
  if (grad_x.numel() > 0) launch(p, Context(grad_y).queue);
  return grad_x;
}

std::tuple<Tensor, Tensor> conv2d_backward_weight(const Tensor& grad_y,
                                                  const std::optional<Tensor>& y, const Tensor& x,
                                                  const IntList& kernel_size, bool channels_last,
                                                  const IntList& stride, const IntList& padding,
                                                  const IntList& dilation, int64_t groups,
                                                  int64_t activation, bool of_bias) {
  const char* op = "conv2d_backward_weight";
  check_tensor(op, "grad_y", grad_y);
  check_companion(op, "x", x, grad_y);
  const Pair kernel = pair_of(op, "kernel_size", kernel_size, 1);
  const Dims sizes = sizes_of(grad_y), x_sizes = sizes_of(x);
  CHECK(sizes.rank == 3 || sizes.rank == 4, op, ": grad_y: got ", sizes.rank,
        " dimensions, expected 3 or 4");
  CHECK(x_sizes.rank == sizes.rank, op, ": x: got ", x_sizes.rank, " dimensions, expected ",
        sizes.rank);
  CHECK(groups >= 1 && x_sizes[-3] % groups == 0, op, ": groups: got ", groups,
        ", expected a divisor of the channels, ", x_sizes[-3]);
  const int64_t w[] = {sizes[-3], x_sizes[-3] / groups, kernel.first, kernel.second};
  const Dims w_sizes(w, 4);
  Conv2dBackwardWeight p{};
  static_cast<Conv2dShape&>(p) =
      make_conv2d(op, x_sizes, w_sizes, {stride, padding, dilation, groups});
  check_shape(op, "grad_y", sizes, conv_output_sizes(x_sizes, p));
  p.dtype = floating_dtype(op, "grad_y", grad_y);
  set_gate(op, p, y, grad_y, activation);
  Tensor grad_weight = empty_dense(op, grad_y, w_sizes, channels_last, grad_y.scalar_type());
  Tensor grad_bias =
      empty_dense(op, grad_y, vector_of(of_bias ? p.O : 0), false, grad_y.scalar_type());
  p.grad_y = memory_of(grad_y);
  p.x = memory_of(x);
  p.grad_weight = memory_of(grad_weight);
  p.grad_bias = memory_of(of_bias ? &grad_bias : nullptr);
  p.grad_y_stride = nchw_strides(grad_y);
  p.x_stride = nchw_strides(x);
  p.w_stride = weight_strides(grad_weight);
  launch(p, Context(grad_y).queue);  // of an empty batch: zeros
  return {grad_weight, grad_bias};
}

// The input size of which conv2d makes `input`, and `output_padding` more.
int64_t transposed_size(const char* op, int64_t size, const Window& window, int64_t more) {
  CHECK(more >= 0 && (more < window.stride || more < window.dilation), op, ": output_padding: got ",
        more, ", expected less than the stride or the dilation");
  const int64_t spread = mul(op, "stride", size - 1, window.stride);
  const int64_t span = mul(op, "dilation", window.kernel - 1, window.dilation);
  const int64_t padded = add(op, "padding", add(op, "padding", spread, span), more + 1);
  const int64_t result = padded - mul(op, "padding", 2, window.padding);
  CHECK(result > 0, op, ": padding: got ", window.padding, ", expected an output of at least one");
  return result;
}

Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const IntList& stride, const IntList& padding,
                        const IntList& output_padding, int64_t groups, const IntList& dilation) {
  const char* op = "conv_transpose2d";
  check_tensor(op, "input", x);
  check_companion(op, "weight", weight, x);
  const Dims sizes = sizes_of(x), w_sizes = sizes_of(weight);
  CHECK(sizes.rank == 3 || sizes.rank == 4, op, ": input: got ", sizes.rank,
        " dimensions, expected 3 (C, H, W) or 4 (N, C, H, W)");
  CHECK(w_sizes.rank == 4, op, ": weight: got ", w_sizes.rank, " dimensions, expected 4");
  CHECK(groups >= 1, op, ": groups: got ", groups, ", expected at least 1");
  for (int d = 0; d < 4; ++d) {
    CHECK(w_sizes[d] > 0, op, ": weight: got size 0 in dimension ", d, ", expected no empty one");
  }
  CHECK(sizes[-3] == w_sizes[0], op, ": input: got ", sizes[-3], " channels, expected ",
        w_sizes[0]);
  for (int d = sizes.rank - 2; d < sizes.rank; ++d) {
    CHECK(sizes[d] > 0, op, ": input: got size 0 in dimension ", d,
          ", expected only the batch to be empty");
  }
  const Pair s = pair_of(op, "stride", stride, 1), q = pair_of(op, "padding", padding, 0);
  const Pair d = pair_of(op, "dilation", dilation, 1);
  const Pair more = pair_of(op, "output_padding", output_padding, 0);
  const Window h{w_sizes[2], s.first, q.first, d.first},
      w{w_sizes[3], s.second, q.second, d.second};
  Dims y_sizes = with_spatial_size(sizes, transposed_size(op, sizes[-2], h, more.first),
                                   transposed_size(op, sizes[-1], w, more.second));
  y_sizes[-3] = mul(op, "groups", w_sizes[1], groups);
  Conv2dBackwardInput p{};
  static_cast<Conv2dShape&>(p) =
      make_conv2d(op, y_sizes, w_sizes, {stride, padding, dilation, groups});
  p.OH = sizes[-2], p.OW = sizes[-1];  // fewer than that, where output_padding is over the stride
  p.dtype = floating_dtype(op, "input", x);
  std::optional<Tensor> dense_bias;
  p.bias = bias_of(op, bias, p.C, x, dense_bias);
  Tensor y = empty_dense(op, x, y_sizes, output_is_channels_last(x, weight), x.scalar_type());
  p.grad_y = memory_of(x);
  p.weight = memory_of(weight);
  p.grad_x = memory_of(y);
  p.grad_y_stride = nchw_strides(x);
  p.w_stride = weight_strides(weight);
  p.grad_x_stride = nchw_strides(y);
  if (y.numel() > 0) launch(p, Context(x).queue);
  return y;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("conv2d", KERNEL(&conv2d));
  library.impl("conv2d_inference", KERNEL(&conv2d));
#if TORCHEXT_LIBRARY_CPU  // whose kernels' panels these are
  library.impl("conv2d_packed_inference", KERNEL(&conv2d_packed));
  library.impl("conv2d_winograd_inference", KERNEL(&conv2d_winograd));
#endif
  library.impl("conv2d_backward_input", KERNEL(&conv2d_backward_input));
  library.impl("conv2d_backward_weight", KERNEL(&conv2d_backward_weight));
  library.impl("conv_transpose2d", KERNEL(&conv_transpose2d));
  library.impl("conv_transpose2d_inference", KERNEL(&conv_transpose2d));
}

}  // namespace torchext
