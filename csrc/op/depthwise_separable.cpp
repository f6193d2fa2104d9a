// depthwise_separable: checks, allocation and registration.
#include "depthwise_separable.h"

#include "conv2d_operands.h"
#include "norm_arguments.h"

namespace torchext {
namespace {

using Optional = std::optional<Tensor>;

// A norm's arguments, in the order of the schema.
struct Norm {
  const Optional &gamma, &beta;
  const Tensor &mean, &var;
  double eps;
};

// The block with `out_channels`, whose pointwise weight `set_weight` puts in; it says whether the
// result is channels-last for its sake.
template <class SetWeight>
Tensor block(const char* op, const Tensor& x, const Tensor& weight, const Norm& first,
             int64_t out_channels, SetWeight set_weight, const Norm& second,
             const Optional& residual, const ConvArguments& arguments, int64_t activation,
             int64_t pointwise_activation) {
  DepthwiseSeparable p{};
  p.depthwise = convolution_of(op, x, weight, arguments, activation);
  const int64_t channels = p.depthwise.C;
  CHECK(x.dim() == 4, op, ": input: got ", x.dim(), " dimensions, expected 4 (N, C, H, W)");
  const NormArguments norm(op, {"gamma", "beta", "mean", "var"}, x, channels, first.gamma,
                           first.beta, first.mean, first.var);
  Conv2d& to = p.pointwise;
  to.dtype = p.depthwise.dtype;
  to.N = p.depthwise.N, to.C = channels, to.O = out_channels, to.groups = 1;
  to.H = to.OH = p.depthwise.OH, to.W = to.OW = p.depthwise.OW;
  to.h = to.w = {1, 1, 0, 1};
  const bool weight_is_channels_last = set_weight(to);
  const NormNames names{"pointwise_gamma", "pointwise_beta", "pointwise_mean", "pointwise_var"};
  const NormArguments pointwise_norm(op, names, x, out_channels, second.gamma, second.beta,
                                     second.mean, second.var);
  p.depthwise_norm = norm.running(first.eps);
  p.pointwise_norm = pointwise_norm.running(second.eps);
  to.activation = activation_of(op, pointwise_activation, "pointwise_activation");
  set_residual(op, to, residual, x);
  const bool channels_last = output_is_channels_last(x, weight) || weight_is_channels_last;
  Tensor y = empty_dense(op, x, conv_output_sizes(sizes_of(x), to), channels_last, x.scalar_type());
  to.y = memory_of(y);
  to.y_stride = nchw_strides(y);
  if (y.numel() > 0) launch(p, Context(x).queue);
  return y;
}

int64_t channels_of(const char* op, const Tensor& weight) {
  check_tensor(op, "weight", weight);
  return weight.dim() == 4 ? max_of(weight.size(0), int64_t{1}) : 1;
}

Tensor depthwise_separable(const Tensor& x, const Tensor& weight, const Optional& gamma,
                           const Optional& beta, const Tensor& mean, const Tensor& var, double eps,
                           const Tensor& pointwise, const Optional& pointwise_gamma,
                           const Optional& pointwise_beta, const Tensor& pointwise_mean,
                           const Tensor& pointwise_var, double pointwise_eps,
                           const Optional& residual, const IntList& stride, const IntList& padding,
                           const IntList& dilation, int64_t activation,
                           int64_t pointwise_activation) {
  const char* op = "depthwise_separable_inference";
  const int64_t channels = channels_of(op, weight);
  check_tensor(op, "pointwise_weight", pointwise);
  const auto set_weight = [&](Conv2d& to) {
    check_companion(op, "pointwise_weight", pointwise, x);
    const Dims sizes = sizes_of(pointwise);
    CHECK(sizes.rank == 4 && sizes[0] > 0 && sizes[1] == channels && sizes[2] == 1 && sizes[3] == 1,
          op, ": pointwise_weight: got shape ", sizes, ", expected (O, ", channels, ", 1, 1)");
    to.weight = memory_of(pointwise);
    to.w_stride = nchw_strides(pointwise);
    return is_channels_last(pointwise);
  };
  return block(op, x, weight, {gamma, beta, mean, var, eps},
               pointwise.dim() > 0 ? pointwise.size(0) : 0, set_weight,
               {pointwise_gamma, pointwise_beta, pointwise_mean, pointwise_var, pointwise_eps},
               residual, {stride, padding, dilation, channels}, activation, pointwise_activation);
}

#if TORCHEXT_LIBRARY_CPU
Tensor depthwise_separable_packed(const Tensor& x, const Tensor& weight, const Optional& gamma,
                                  const Optional& beta, const Tensor& mean, const Tensor& var,
                                  double eps, const Tensor& panels, int64_t out_channels,
                                  const Optional& pointwise_gamma, const Optional& pointwise_beta,
                                  const Tensor& pointwise_mean, const Tensor& pointwise_var,
                                  double pointwise_eps, const Optional& residual,
                                  const IntList& stride, const IntList& padding,
                                  const IntList& dilation, int64_t activation,
                                  int64_t pointwise_activation) {
  const char* op = "depthwise_separable_packed_inference";
  CHECK(out_channels > 0, op, ": out_channels: got ", out_channels, ", expected at least 1");
  Optional dense;
  const auto set_weight = [&](Conv2d& to) {
    dense = panels_of(op, panels, x, to, 1);
    to.panels = memory_of(*dense);
    return true;
  };
  return block(op, x, weight, {gamma, beta, mean, var, eps}, out_channels, set_weight,
               {pointwise_gamma, pointwise_beta, pointwise_mean, pointwise_var, pointwise_eps},
               residual, {stride, padding, dilation, channels_of(op, weight)}, activation,
               pointwise_activation);
}

#endif

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("depthwise_separable_inference", KERNEL(&depthwise_separable));
#if TORCHEXT_LIBRARY_CPU  // whose kernels' panels these are
  library.impl("depthwise_separable_packed_inference", KERNEL(&depthwise_separable_packed));
#endif
}

}  // namespace torchext
