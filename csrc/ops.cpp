// Every schema, one line each: the table of contents of the library. Each differentiable op has two
// names, <op> (autograd) and <op>_inference (none: an autograd key costs 4 us a call even when no
// gradient is wanted), and its gradient is an op as well.
#include "common/stable.h"

// clang-format off
STABLE_TORCH_LIBRARY(torchext, library) {
  library.def("max_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode) -> (Tensor, Tensor)");
  library.def("max_pool2d_inference(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode) -> Tensor");
  library.def("max_pool2d_backward(Tensor grad_y, Tensor offsets, SymInt[2] input_size, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode) -> Tensor");
  library.def("max_pool2d_indices(Tensor offsets, SymInt[2] input_size, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode) -> Tensor");
  library.def("avg_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor");
  library.def("avg_pool2d_inference(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor");
  library.def("avg_pool2d_backward(Tensor grad_y, SymInt[2] input_size, bool channels_last, int[2] kernel_size, int[2] stride, int[2] padding, bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor");
  library.def("adaptive_avg_pool2d(Tensor input, SymInt[2] output_size) -> Tensor");
  library.def("adaptive_avg_pool2d_inference(Tensor input, SymInt[2] output_size) -> Tensor");
  library.def("adaptive_avg_pool2d_backward(Tensor grad_y, SymInt[2] input_size, bool channels_last) -> Tensor");
  library.def("conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation) -> Tensor");
  library.def("conv2d_inference(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation) -> Tensor");
  library.def("conv2d_backward_input(Tensor grad_y, Tensor? y, Tensor weight, SymInt[2] input_size, bool channels_last, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation) -> Tensor");
  library.def("conv2d_backward_weight(Tensor grad_y, Tensor? y, Tensor x, int[2] kernel_size, bool channels_last, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation) -> (Tensor, Tensor)");
  library.def("conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] output_padding, int groups, int[2] dilation) -> Tensor");
  library.def("conv_transpose2d_inference(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] output_padding, int groups, int[2] dilation) -> Tensor");
  library.def("linear(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int activation) -> Tensor");
  library.def("linear_inference(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int activation) -> Tensor");
  library.def("linear_backward_input(Tensor grad_y, Tensor? y, Tensor weight, int activation) -> Tensor");
  library.def("linear_backward_weight(Tensor grad_y, Tensor? y, Tensor x, int activation) -> (Tensor, Tensor)");
}
