// avg_pool2d and adaptive_avg_pool2d (global average = output size 1), which share their kernels:
// checks, allocation and registration, compiled into each backend's library.
#include "avg_pool2d.h"

#include "../common/backend.h"
#include "pool2d_shape.h"

namespace torchext {
namespace {

const IntList kNoDilation = {1, 1};

int64_t checked_divisor(const char* op, std::optional<int64_t> divisor) {
  CHECK(!divisor.has_value() || *divisor != 0, op,
        ": divisor_override: got 0, expected another value");
  return divisor.value_or(0);
}

Tensor avg_pool2d(const Tensor& x, const IntList& kernel_size, const IntList& stride,
                  const IntList& padding, bool ceil_mode, bool count_include_pad,
                  std::optional<int64_t> divisor_override) {
  const char* op = "avg_pool2d";
  check_tensor(op, "input", x);
  AvgPool2d p{};
  static_cast<Pool2d&>(p) =
      make_pool2d(op, sizes_of(x), {kernel_size, stride, padding, kNoDilation, ceil_mode});
  p.dtype = floating_dtype(op, "input", x);
  p.count_include_pad = count_include_pad;
  p.divisor_override = checked_divisor(op, divisor_override);
  Tensor y = empty_dense(op, x, with_spatial_size(sizes_of(x), p.OH, p.OW), is_channels_last(x),
                         x.scalar_type());
  p.x = memory_of(x);
  p.y = memory_of(y);
  p.x_stride = nchw_strides(x);
  p.y_stride = nchw_strides(y);
  if (p.N > 0) launch(p, Context(x).queue);
  return y;
}

Tensor avg_pool2d_backward(const Tensor& grad_y, const IntList& input_size, bool channels_last,
                           const IntList& kernel_size, const IntList& stride,
                           const IntList& padding, bool ceil_mode, bool count_include_pad,
                           std::optional<int64_t> divisor_override) {
  const char* op = "avg_pool2d_backward";
  check_tensor(op, "grad_y", grad_y);
  const Pair size = pair_of(op, "input_size", input_size, 1);
  const Dims sizes = sizes_of(grad_y);
  check_pool_input(op, "grad_y", sizes);
  const Dims x_sizes = with_spatial_size(sizes, size.first, size.second);
  AvgPool2dBackward p{};
  static_cast<Pool2d&>(p) =
      make_pool2d(op, x_sizes, {kernel_size, stride, padding, kNoDilation, ceil_mode});
  check_pooled_shape(op, "grad_y", sizes, with_spatial_size(sizes, p.OH, p.OW));
  p.dtype = floating_dtype(op, "grad_y", grad_y);
  p.count_include_pad = count_include_pad;
  p.divisor_override = checked_divisor(op, divisor_override);
  Tensor grad_x =
      empty_dense(op, grad_y, x_sizes, channels_last && sizes.rank == 4, grad_y.scalar_type());
  p.grad_y = memory_of(grad_y);
  p.grad_x = memory_of(grad_x);
  p.grad_y_stride = nchw_strides(grad_y);
  p.grad_x_stride = nchw_strides(grad_x);
  if (p.N > 0) launch(p, Context(grad_y).queue);
  return grad_x;
}

Tensor adaptive_avg_pool2d(const Tensor& x, const IntList& output_size) {
  const char* op = "adaptive_avg_pool2d";
  check_tensor(op, "input", x);
  AvgPool2d p{};
  static_cast<Pool2d&>(p) =
      make_adaptive_pool2d(op, sizes_of(x), pair_of(op, "output_size", output_size, 0));
  p.dtype = floating_dtype(op, "input", x);
  p.adaptive = true;
  Tensor y = empty_dense(op, x, with_spatial_size(sizes_of(x), p.OH, p.OW), is_channels_last(x),
                         x.scalar_type());
  p.x = memory_of(x);
  p.y = memory_of(y);
  p.x_stride = nchw_strides(x);
  p.y_stride = nchw_strides(y);
  if (p.N > 0 && p.OH > 0 && p.OW > 0) launch(p, Context(x).queue);
  return y;
}

Tensor adaptive_avg_pool2d_backward(const Tensor& grad_y, const IntList& input_size,
                                    bool channels_last) {
  const char* op = "adaptive_avg_pool2d_backward";
  check_tensor(op, "grad_y", grad_y);
  const Pair size = pair_of(op, "input_size", input_size, 1);
  const Dims sizes = sizes_of(grad_y);
  CHECK(sizes.rank == 3 || sizes.rank == 4, op, ": grad_y: got ", sizes.rank,
        " dimensions, expected 3 or 4");
  const Dims x_sizes = with_spatial_size(sizes, size.first, size.second);
  AvgPool2dBackward p{};
  static_cast<Pool2d&>(p) = make_adaptive_pool2d(op, x_sizes, {sizes[-2], sizes[-1]});
  p.dtype = floating_dtype(op, "grad_y", grad_y);
  p.adaptive = true;
  Tensor grad_x =
      empty_dense(op, grad_y, x_sizes, channels_last && sizes.rank == 4, grad_y.scalar_type());
  p.grad_y = memory_of(grad_y);
  p.grad_x = memory_of(grad_x);
  p.grad_y_stride = nchw_strides(grad_y);
  p.grad_x_stride = nchw_strides(grad_x);
  if (p.N > 0) launch(p, Context(grad_y).queue);  // with no outputs, it writes zeros
  return grad_x;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("avg_pool2d", KERNEL(&avg_pool2d));
  library.impl("avg_pool2d_inference", KERNEL(&avg_pool2d));
  library.impl("avg_pool2d_backward", KERNEL(&avg_pool2d_backward));
  library.impl("adaptive_avg_pool2d", KERNEL(&adaptive_avg_pool2d));
  library.impl("adaptive_avg_pool2d_inference", KERNEL(&adaptive_avg_pool2d));
  library.impl("adaptive_avg_pool2d_backward", KERNEL(&adaptive_avg_pool2d_backward));
}

}  // namespace torchext
