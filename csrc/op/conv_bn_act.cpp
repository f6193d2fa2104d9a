// conv_bn_act: checks, allocation and registration.
#include "conv_bn_act.h"

#include "conv2d_operands.h"
#include "norm_arguments.h"

namespace torchext {
namespace {

using Optional = std::optional<Tensor>;

NormArguments norm_of(const char* op, const Tensor& x, int64_t channels, const Optional& gamma,
                      const Optional& beta, const Optional& running_mean,
                      const Optional& running_var, bool training) {
  const NormNames names{"gamma", "beta", "running_mean", "running_var"};
  NormArguments norm(op, names, x, channels, gamma, beta, running_mean, running_var);
  CHECK(norm.mean.has_value() == norm.var.has_value(), op,
        ": running_var: got one of running_mean and running_var, expected both or neither");
  CHECK(training || norm.mean.has_value(), op,
        ": running_mean: got none, expected one outside training");
  return norm;
}

Conv2d convolution(const char* op, const Tensor& x, const Tensor& weight,
                   const ConvArguments& arguments, int64_t activation) {
  Conv2d p = convolution_of(op, x, weight, arguments, activation);
  CHECK(x.dim() == 4, op, ": input: got ", x.dim(), " dimensions, expected 4 (N, C, H, W)");
  return p;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> conv_bn_act(
    const Tensor& x, const Tensor& weight, const Optional& bias, const Optional& gamma,
    const Optional& beta, const Optional& running_mean, const Optional& running_var,
    const Optional& residual, bool training, double momentum, double eps, const IntList& stride,
    const IntList& padding, const IntList& dilation, int64_t groups, int64_t activation) {
  const char* op = "conv_bn_act";
  ConvBnAct p{};
  p.conv = convolution(op, x, weight, {stride, padding, dilation, groups}, activation);
  const NormArguments norm =
      norm_of(op, x, p.conv.O, gamma, beta, running_mean, running_var, training);
  Optional dense_bias;
  p.conv.bias = bias_of(op, bias, p.conv.O, x, dense_bias);
  set_residual(op, p.conv, residual, x);
  p.conv.residual = nullptr;  // it waits for the norm
  p.conv.activation = Activation::none;
  const Tensor z = set_result(op, p.conv, x, output_is_channels_last(x, weight));
  const Optional dense_residual =
      residual.has_value() ? Optional(laid_out_as(z, *residual)) : std::nullopt;
  Tensor y = empty_as(z);
  const ScalarType type = compute_type(x);
  Tensor mean = empty_vector(x, p.conv.O, type), rstd = empty_vector(x, p.conv.O, type);
  const int64_t updated = training && running_mean.has_value() ? p.conv.O : 0;
  Tensor new_mean = empty_vector(x, updated, type), new_var = empty_vector(x, updated, type);

  p.norm.dtype = p.conv.dtype;
  p.norm.N = p.conv.N, p.norm.C = p.conv.O, p.norm.S = p.conv.OH * p.conv.OW;
  p.norm.channels_last = p.norm.S == 1 || is_channels_last(z);
  p.norm.eps = eps;
  p.norm.training = training;
  p.norm.momentum = momentum;
  p.norm.x = memory_of(z);
  p.norm.weight = memory_of(norm.gamma), p.norm.bias = memory_of(norm.beta);
  p.norm.running_mean = memory_of(norm.mean), p.norm.running_var = memory_of(norm.var);
  p.norm.residual = memory_of(dense_residual);
  p.norm.activation = activation_of(op, activation);
  p.norm.y = memory_of(y);
  p.norm.mean = memory_of(mean), p.norm.rstd = memory_of(rstd);
  if (updated > 0) {
    p.norm.new_running_mean = memory_of(new_mean);
    p.norm.new_running_var = memory_of(new_var);
  }
  launch(p, Context(x).queue);  // of an empty batch, it writes the statistics
  return {y, z, mean, rstd, new_mean, new_var};
}

Tensor conv_bn_act_inference(const Tensor& x, const Tensor& weight, const Optional& bias,
                             const Optional& gamma, const Optional& beta,
                             const Optional& running_mean, const Optional& running_var,
                             const Optional& residual, bool training, double momentum, double eps,
                             const IntList& stride, const IntList& padding, const IntList& dilation,
                             int64_t groups, int64_t activation) {
  if (training) {
    return std::get<0>(conv_bn_act(x, weight, bias, gamma, beta, running_mean, running_var,
                                   residual, training, momentum, eps, stride, padding, dilation,
                                   groups, activation));
  }
  const char* op = "conv_bn_act";
  ConvBnActInference p{};
  p.conv = convolution(op, x, weight, {stride, padding, dilation, groups}, activation);
  const NormArguments norm =
      norm_of(op, x, p.conv.O, gamma, beta, running_mean, running_var, training);
  Optional dense_bias;
  bias_of(op, bias, p.conv.O, x, dense_bias);  // its checks
  dense_bias = weight_for(op, "bias", x, dense_bias, p.conv.O);
  set_residual(op, p.conv, residual, x);
  Tensor y = set_result(op, p.conv, x, output_is_channels_last(x, weight));
  p.norm = norm.running(eps, memory_of(dense_bias));
  if (y.numel() > 0) launch(p, Context(x).queue);
  return y;
}

// Of z: conv2d's gradients are ops of their own.
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_bn_act_backward(
    const Tensor& grad_y, const Tensor& input, const Optional& residual, const Tensor& mean,
    const Tensor& rstd, const Optional& gamma, const Optional& beta, bool training, double eps,
    int64_t activation, bool of_residual) {
  const char* op = "conv_bn_act_backward";
  check_tensor(op, "z", input);
  CHECK(input.dim() == 4, op, ": z: got ", input.dim(), " dimensions, expected 4 (N, C, H, W)");
  for (int64_t d = 1; d < 4; ++d) {
    CHECK(input.size(d) > 0, op, ": z: got size 0 in dimension ", d,
          ", expected only the batch to be empty");
  }
  ChannelNormBackward p{};
  p.dtype = floating_dtype(op, "z", input);
  p.N = input.size(0), p.C = input.size(1), p.S = input.size(2) * input.size(3);
  p.channels_last = p.S == 1 || is_channels_last(input);
  p.eps = eps;
  p.training = training;
  p.activation = activation_of(op, activation);
  check_like(op, "grad_y", grad_y, input);
  if (residual.has_value()) check_like(op, "residual", *residual, input);
  const Tensor m = statistics_for(op, "mean", input, mean, p.C);
  const Tensor r = statistics_for(op, "rstd", input, rstd, p.C);
  const Optional w = weight_for(op, "gamma", input, gamma, p.C);
  const Optional b = weight_for(op, "beta", input, beta, p.C);
  const Tensor z = contiguous_or_channels_last(input);
  const Tensor g = laid_out_as(z, grad_y);
  const Optional s = residual.has_value() ? Optional(laid_out_as(z, *residual)) : std::nullopt;
  Tensor grad_z = empty_as(z);
  Tensor grad_residual = of_residual ? empty_as(z) : empty_vector(z, 0, z.scalar_type());
  Tensor grad_gamma = empty_vector(z, p.C, compute_type(z));
  Tensor grad_beta = empty_vector(z, p.C, compute_type(z));
  p.grad_y = memory_of(g), p.x = memory_of(z);
  p.mean = memory_of(m), p.rstd = memory_of(r);
  p.weight = memory_of(w), p.bias = memory_of(b), p.residual = memory_of(s);
  p.grad_x = memory_of(grad_z);
  p.grad_weight = memory_of(grad_gamma), p.grad_bias = memory_of(grad_beta);
  p.grad_residual = memory_of(of_residual ? &grad_residual : nullptr);
  launch(p, Context(z).queue);  // of an empty batch, it writes zeros
  return {grad_z, grad_residual, grad_gamma, grad_beta};
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("conv_bn_act", KERNEL(&conv_bn_act));
  library.impl("conv_bn_act_inference", KERNEL(&conv_bn_act_inference));
  library.impl("conv_bn_act_backward", KERNEL(&conv_bn_act_backward));
}

}  // namespace torchext
