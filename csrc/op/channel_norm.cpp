// batch_norm and group_norm: checks, allocation and registration.
#include "channel_norm.h"

#include "../common/dense.h"

namespace torchext {
namespace {

using Optional = std::optional<Tensor>;

Channels channels_of(const char* op, const Tensor& x, double eps) {
  check_tensor(op, "input", x);
  CHECK(x.dim() >= 2, op, ": input: got ", x.dim(), " dimensions, expected at least 2 (N, C, ...)");
  Channels p{};
  p.dtype = floating_dtype(op, "input", x);
  p.N = x.size(0);
  p.C = x.size(1);
  p.S = 1;
  for (int64_t d = 2; d < x.dim(); ++d) p.S *= x.size(d);
  for (int64_t d = 1; d < x.dim(); ++d) {
    CHECK(x.size(d) > 0, op, ": input: got size 0 in dimension ", d,
          ", expected only the batch to be empty");
  }
  p.eps = eps;
  p.channels_last = p.S == 1 || (x.dim() == 4 && is_channels_last(x));
  return p;
}

void check_groups(const char* op, const Channels& p, int64_t groups) {
  CHECK(groups > 0 && p.C % groups == 0, op, ": groups: got ", groups,
        ", expected a divisor of the ", p.C, " channels");
}

struct Result {
  Tensor y, mean, rstd;
};

Result normalized(ChannelNorm& p, const char* op, const Tensor& input, const Optional& weight,
                  const Optional& bias) {
  const auto w = weight_for(op, "weight", input, weight, p.C);
  const auto b = weight_for(op, "bias", input, bias, p.C);
  const Tensor x = contiguous_or_channels_last(input);
  const ScalarType type = compute_type(x);
  const int64_t sizes[] = {p.N, p.groups};
  const auto statistics = [&] {
    return p.groups ? empty_contiguous(x, sizes, 2, type) : empty_vector(x, p.C, type);
  };
  Result result{empty_as(x), statistics(), statistics()};
  p.x = memory_of(x);
  p.weight = memory_of(w);
  p.bias = memory_of(b);
  p.y = memory_of(result.y);
  p.mean = memory_of(result.mean);
  p.rstd = memory_of(result.rstd);
  launch(p, Context(x).queue);  // of an empty batch, it writes the statistics
  return result;
}

Result grouped(const Tensor& input, int64_t groups, const Optional& weight, const Optional& bias,
               double eps) {
  const char* op = "group_norm";
  ChannelNorm p{};
  static_cast<Channels&>(p) = channels_of(op, input, eps);
  check_groups(op, p, groups);
  p.groups = groups;
  p.training = true;
  return normalized(p, op, input, weight, bias);
}

std::tuple<Tensor, Tensor, Tensor> group_norm(const Tensor& x, int64_t groups,
                                              const Optional& weight, const Optional& bias,
                                              double eps) {
  const Result result = grouped(x, groups, weight, bias, eps);
  return {result.y, result.mean, result.rstd};
}

Tensor group_norm_inference(const Tensor& x, int64_t groups, const Optional& weight,
                            const Optional& bias, double eps) {
  return grouped(x, groups, weight, bias, eps).y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_norm(
    const Tensor& input, const Optional& weight, const Optional& bias, const Optional& running_mean,
    const Optional& running_var, bool training, double momentum, double eps) {
  const char* op = "batch_norm";
  ChannelNorm p{};
  static_cast<Channels&>(p) = channels_of(op, input, eps);
  CHECK(running_mean.has_value() == running_var.has_value(), op,
        ": running_var: got one of running_mean and running_var, expected both or neither");
  CHECK(training || running_mean.has_value(), op,
        ": running_mean: got none, expected one outside training");
  const auto mean = weight_for(op, "running_mean", input, running_mean, p.C);
  const auto var = weight_for(op, "running_var", input, running_var, p.C);
  p.training = training;
  p.momentum = momentum;
  p.running_mean = memory_of(mean);
  p.running_var = memory_of(var);
  const bool updates = training && mean.has_value();
  const int64_t size = updates ? p.C : 0;
  Tensor new_mean = empty_vector(input, size, compute_type(input));
  Tensor new_var = empty_vector(input, size, compute_type(input));
  if (updates) {
    p.new_running_mean = memory_of(new_mean);
    p.new_running_var = memory_of(new_var);
  }
  const Result result = normalized(p, op, input, weight, bias);
  return {result.y, result.mean, result.rstd, new_mean, new_var};
}

Tensor batch_norm_inference(const Tensor& x, const Optional& weight, const Optional& bias,
                            const Optional& running_mean, const Optional& running_var,
                            bool training, double momentum, double eps) {
  return std::get<0>(
      batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps));
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients gradients(ChannelNormBackward& p, const char* op, const Tensor& grad_y,
                    const Tensor& input, const Tensor& mean, const Tensor& rstd,
                    const Optional& weight, bool of_weights) {
  check_like(op, "grad_y", grad_y, input);
  const int64_t sets = p.groups ? p.N * p.groups : p.C;
  const Tensor m = statistics_for(op, "mean", input, mean, sets);
  const Tensor r = statistics_for(op, "rstd", input, rstd, sets);
  const auto w = weight_for(op, "weight", input, weight, p.C);
  const Tensor x = contiguous_or_channels_last(input), g = laid_out_as(x, grad_y);
  Tensor grad_x = empty_as(x);
  const int64_t weights = of_weights ? p.C : 0;
  Tensor grad_weight = empty_vector(x, weights, compute_type(x));
  Tensor grad_bias = empty_vector(x, weights, compute_type(x));
  p.grad_y = memory_of(g);
  p.x = memory_of(x);
  p.mean = memory_of(m);
  p.rstd = memory_of(r);
  p.weight = memory_of(w);
  p.grad_x = memory_of(grad_x);
  if (of_weights) {
    p.grad_weight = memory_of(grad_weight);
    p.grad_bias = memory_of(grad_bias);
  }
  launch(p, Context(x).queue);  // of an empty batch, it writes zeros
  return {grad_x, grad_weight, grad_bias};
}

Gradients group_norm_backward(const Tensor& grad_y, const Tensor& input, const Tensor& mean,
                              const Tensor& rstd, int64_t groups, const Optional& weight,
                              double eps, bool of_weights) {
  const char* op = "group_norm_backward";
  ChannelNormBackward p{};
  static_cast<Channels&>(p) = channels_of(op, input, eps);
  check_groups(op, p, groups);
  p.groups = groups;
  p.training = true;
  return gradients(p, op, grad_y, input, mean, rstd, weight, of_weights);
}

Gradients batch_norm_backward(const Tensor& grad_y, const Tensor& input, const Tensor& mean,
                              const Tensor& rstd, const Optional& weight, bool training, double eps,
                              bool of_weights) {
  const char* op = "batch_norm_backward";
  ChannelNormBackward p{};
  static_cast<Channels&>(p) = channels_of(op, input, eps);
  p.training = training;
  return gradients(p, op, grad_y, input, mean, rstd, weight, of_weights);
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("group_norm", KERNEL(&group_norm));
  library.impl("group_norm_inference", KERNEL(&group_norm_inference));
  library.impl("group_norm_backward", KERNEL(&group_norm_backward));
  library.impl("batch_norm", KERNEL(&batch_norm));
  library.impl("batch_norm_inference", KERNEL(&batch_norm_inference));
  library.impl("batch_norm_backward", KERNEL(&batch_norm_backward));
}

}  // namespace torchext
