// adaptive_avg_pool2d (global average = output size 1): checks, allocation and registration; the
// kernels are avg_pool2d's.
#include "../common/backend.h"
#include "avg_pool2d.h"
#include "pool2d_shape.h"

namespace torchext {
namespace {

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
  p.x = x.data_ptr();
  p.y = y.data_ptr();
  p.x_stride = nchw_strides(x);
  p.y_stride = nchw_strides(y);
  if (p.N > 0 && p.OH > 0 && p.OW > 0) launch(p, Context(x).stream);
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
  p.grad_y = grad_y.data_ptr();
  p.grad_x = grad_x.data_ptr();
  p.grad_y_stride = nchw_strides(grad_y);
  p.grad_x_stride = nchw_strides(grad_x);
  if (p.N > 0) launch(p, Context(grad_y).stream);  // with no outputs, it writes zeros
  return grad_x;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("adaptive_avg_pool2d", TORCH_BOX(&adaptive_avg_pool2d));
  library.impl("adaptive_avg_pool2d_inference", TORCH_BOX(&adaptive_avg_pool2d));
  library.impl("adaptive_avg_pool2d_backward", TORCH_BOX(&adaptive_avg_pool2d_backward));
}

}  // namespace torchext
