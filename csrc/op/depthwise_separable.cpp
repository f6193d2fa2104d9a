// depthwise_separable: checks, allocation and registration.
#include "depthwise_separable.h"

#include "conv2d_operands.h"
#include "norm_arguments.h"

namespace torchext {
namespace {

using Optional = std::optional<Tensor>;

Tensor depthwise_separable(const Tensor& x, const Tensor& weight, const Optional& gamma,
                           const Optional& beta, const Tensor& mean, const Tensor& var, double eps,
                           const Tensor& pointwise, const Optional& pointwise_gamma,
                           const Optional& pointwise_beta, const Tensor& pointwise_mean,
                           const Tensor& pointwise_var, double pointwise_eps,
                           const Optional& residual, const IntList& stride, const IntList& padding,
                           const IntList& dilation, int64_t activation,
                           int64_t pointwise_activation) {
  const char* op = "depthwise_separable_inference";
  check_tensor(op, "weight", weight);
  const int64_t channels = weight.dim() == 4 ? max_of(weight.size(0), int64_t{1}) : 1;
  DepthwiseSeparable p{};
  p.depthwise = convolution_of(op, x, weight, {stride, padding, dilation, channels}, activation);
  CHECK(x.dim() == 4, op, ": input: got ", x.dim(), " dimensions, expected 4 (N, C, H, W)");
  check_companion(op, "pointwise_weight", pointwise, x);
  const Dims sizes = sizes_of(pointwise);
  CHECK(sizes.rank == 4 && sizes[0] > 0 && sizes[1] == channels && sizes[2] == 1 && sizes[3] == 1,
        op, ": pointwise_weight: got shape ", sizes, ", expected (O, ", channels, ", 1, 1)");
  const NormArguments norm(op, {"gamma", "beta", "mean", "var"}, x, channels, gamma, beta, mean,
                           var);
  const NormNames names{"pointwise_gamma", "pointwise_beta", "pointwise_mean", "pointwise_var"};
  const NormArguments pointwise_norm(op, names, x, sizes[0], pointwise_gamma, pointwise_beta,
                                     pointwise_mean, pointwise_var);
  p.depthwise_norm = norm.running(eps);
  p.pointwise_norm = pointwise_norm.running(pointwise_eps);

  Conv2d& to = p.pointwise;
  to.dtype = p.depthwise.dtype;
  to.N = p.depthwise.N, to.C = channels, to.O = sizes[0], to.groups = 1;
  to.H = to.OH = p.depthwise.OH, to.W = to.OW = p.depthwise.OW;
  to.h = to.w = {1, 1, 0, 1};
  to.weight = pointwise.data_ptr();
  to.w_stride = nchw_strides(pointwise);
  to.activation = activation_of(op, pointwise_activation, "pointwise_activation");
  set_residual(op, to, residual, x);
  const bool channels_last = output_is_channels_last(x, weight) || is_channels_last(pointwise);
  Tensor y = empty_dense(op, x, conv_output_sizes(sizes_of(x), to), channels_last, x.scalar_type());
  to.y = y.data_ptr();
  to.y_stride = nchw_strides(y);
  if (y.numel() > 0) launch(p, Context(x).stream);
  return y;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("depthwise_separable_inference", TORCH_BOX(&depthwise_separable));
}

}  // namespace torchext
