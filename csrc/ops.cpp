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
  library.def("conv2d_backward_weight(Tensor grad_y, Tensor? y, Tensor x, int[2] kernel_size, bool channels_last, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation, bool of_bias) -> (Tensor, Tensor)");
  library.def("conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] output_padding, int groups, int[2] dilation) -> Tensor");
  library.def("conv_transpose2d_inference(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] output_padding, int groups, int[2] dilation) -> Tensor");
  library.def("linear(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int activation) -> Tensor");
  library.def("linear_inference(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int activation) -> Tensor");
  library.def("linear_backward_input(Tensor grad_y, Tensor? y, Tensor weight, int activation) -> Tensor");
  library.def("linear_backward_weight(Tensor grad_y, Tensor? y, Tensor x, int activation, bool of_bias) -> (Tensor, Tensor)");
  library.def("conv_bn_act(Tensor input, Tensor weight, Tensor? bias, Tensor? gamma, Tensor? beta, Tensor? running_mean, Tensor? running_var, Tensor? residual, bool training, float momentum, float eps, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("conv_bn_act_inference(Tensor input, Tensor weight, Tensor? bias, Tensor? gamma, Tensor? beta, Tensor? running_mean, Tensor? running_var, Tensor? residual, bool training, float momentum, float eps, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation) -> Tensor");
  library.def("conv_bn_act_backward(Tensor grad_y, Tensor z, Tensor? residual, Tensor mean, Tensor rstd, Tensor? gamma, Tensor? beta, bool training, float eps, int activation, bool of_residual) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("depthwise_separable_inference(Tensor input, Tensor weight, Tensor? gamma, Tensor? beta, Tensor mean, Tensor var, float eps, Tensor pointwise_weight, Tensor? pointwise_gamma, Tensor? pointwise_beta, Tensor pointwise_mean, Tensor pointwise_var, float pointwise_eps, Tensor? residual, int[2] stride, int[2] padding, int[2] dilation, int activation, int pointwise_activation) -> Tensor");
  library.def("activation(Tensor input, int kind) -> Tensor");
  library.def("activation_inference(Tensor input, int kind) -> Tensor");
  library.def("activation_backward(Tensor grad_y, Tensor input, int kind) -> Tensor");
  library.def("layer_norm(Tensor input, SymInt normalized_size, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)");
  library.def("layer_norm_inference(Tensor input, SymInt normalized_size, Tensor? weight, Tensor? bias, float eps) -> Tensor");
  library.def("layer_norm_backward(Tensor grad_y, Tensor input, Tensor mean, Tensor rstd, SymInt normalized_size, Tensor? weight, float eps, bool of_weights) -> (Tensor, Tensor, Tensor)");
  library.def("add_layer_norm(Tensor input, Tensor residual, SymInt normalized_size, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("add_layer_norm_inference(Tensor input, Tensor residual, SymInt normalized_size, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)");
  library.def("group_norm(Tensor input, int groups, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)");
  library.def("group_norm_inference(Tensor input, int groups, Tensor? weight, Tensor? bias, float eps) -> Tensor");
  library.def("group_norm_backward(Tensor grad_y, Tensor input, Tensor mean, Tensor rstd, int groups, Tensor? weight, float eps, bool of_weights) -> (Tensor, Tensor, Tensor)");
  library.def("batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("batch_norm_inference(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, float momentum, float eps) -> Tensor");
  library.def("batch_norm_backward(Tensor grad_y, Tensor input, Tensor mean, Tensor rstd, Tensor? weight, bool training, float eps, bool of_weights) -> (Tensor, Tensor, Tensor)");
  library.def("local_response_norm(Tensor input, int size, float alpha, float beta, float k) -> (Tensor, Tensor)");
  library.def("local_response_norm_inference(Tensor input, int size, float alpha, float beta, float k) -> Tensor");
  library.def("local_response_norm_backward(Tensor grad_y, Tensor input, Tensor y, Tensor scale, int size, float alpha, float beta, float k) -> Tensor");
  library.def("softmax(Tensor input, int dim, bool log) -> Tensor");
  library.def("softmax_inference(Tensor input, int dim, bool log) -> Tensor");
  library.def("softmax_backward(Tensor grad_y, Tensor y, int dim, bool log) -> Tensor");
  library.def("cross_entropy(Tensor input, Tensor target, Tensor? weight, int reduction, int ignore_index, float label_smoothing) -> (Tensor, Tensor, Tensor)");
  library.def("cross_entropy_inference(Tensor input, Tensor target, Tensor? weight, int reduction, int ignore_index, float label_smoothing) -> Tensor");
  library.def("cross_entropy_backward(Tensor grad_loss, Tensor input, Tensor target, Tensor? weight, Tensor lse, Tensor total_weight, int reduction, int ignore_index, float label_smoothing) -> Tensor");
  library.def("binary_cross_entropy(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, bool logits) -> Tensor");
  library.def("binary_cross_entropy_inference(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, bool logits) -> Tensor");
  library.def("binary_cross_entropy_backward(Tensor grad_loss, Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, bool logits) -> Tensor");
  library.def("dropout(Tensor input, float p, int seed, bool scaled) -> Tensor");
  library.def("dropout_inference(Tensor input, float p, int seed, bool scaled) -> Tensor");
  library.def("attention(Tensor query, Tensor key, Tensor value, Tensor? mask, bool is_causal, float? scale, bool enable_gqa) -> (Tensor, Tensor)");
  library.def("attention_inference(Tensor query, Tensor key, Tensor value, Tensor? mask, bool is_causal, float? scale, bool enable_gqa) -> Tensor");
  library.def("attention_backward(Tensor grad_y, Tensor grad_logsumexp, Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor y, Tensor logsumexp, bool is_causal, float? scale, bool enable_gqa, bool mask_grad) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("attention_qkv(Tensor qkv, Tensor? mask, bool is_causal, float? scale) -> (Tensor, Tensor)");
  library.def("attention_qkv_inference(Tensor qkv, Tensor? mask, bool is_causal, float? scale) -> Tensor");
  library.def("attention_qkv_backward(Tensor grad_y, Tensor grad_logsumexp, Tensor qkv, Tensor? mask, Tensor y, Tensor logsumexp, bool is_causal, float? scale, bool mask_grad) -> (Tensor, Tensor)");
  library.def("window_attention(Tensor qkv, Tensor table, Tensor index, int[2] window_size, int[2] shift_size, float? scale) -> (Tensor, Tensor)");
  library.def("window_attention_inference(Tensor qkv, Tensor table, Tensor index, int[2] window_size, int[2] shift_size, float? scale) -> Tensor");
  library.def("window_attention_backward(Tensor grad_y, Tensor grad_logsumexp, Tensor qkv, Tensor table, Tensor index, Tensor y, Tensor logsumexp, int[2] window_size, int[2] shift_size, float? scale) -> (Tensor, Tensor)");
  library.def("lstm(Tensor input, Tensor hx, Tensor cx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("lstm_inference(Tensor input, Tensor hx, Tensor cx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse) -> (Tensor, Tensor, Tensor)");
  library.def("lstm_backward(Tensor grad_y, Tensor? grad_hy, Tensor? grad_cy, Tensor input, Tensor hx, Tensor cx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("lstm_cell(Tensor input, Tensor hx, Tensor cx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh) -> (Tensor, Tensor, Tensor)");
  library.def("lstm_cell_inference(Tensor input, Tensor hx, Tensor cx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh) -> (Tensor, Tensor)");
  library.def("lstm_cell_backward(Tensor grad_hy, Tensor? grad_cy, Tensor input, Tensor hx, Tensor cx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("gru(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse) -> (Tensor, Tensor, Tensor)");
  library.def("gru_inference(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse) -> (Tensor, Tensor)");
  library.def("gru_backward(Tensor grad_y, Tensor? grad_hy, Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("gru_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh) -> (Tensor, Tensor)");
  library.def("gru_cell_inference(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh) -> Tensor");
  library.def("gru_cell_backward(Tensor grad_hy, Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("rnn(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse, bool relu) -> (Tensor, Tensor, Tensor)");
  library.def("rnn_inference(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse, bool relu) -> (Tensor, Tensor)");
  library.def("rnn_backward(Tensor grad_y, Tensor? grad_hy, Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, int[] batch_sizes, bool reverse, bool relu, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("rnn_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, bool relu) -> (Tensor, Tensor)");
  library.def("rnn_cell_inference(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, bool relu) -> Tensor");
  library.def("rnn_cell_backward(Tensor grad_hy, Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, bool relu, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
