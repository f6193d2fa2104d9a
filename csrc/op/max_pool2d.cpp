// max_pool2d: checks, allocation and registration, compiled into each backend's library.
#include "max_pool2d.h"

#include "../common/backend.h"
#include "pool2d_shape.h"

namespace torchext {
namespace {

constexpr int64_t kMostByteTaps = 256;  // one byte tells this many taps apart

MaxPool2d make_max_pool2d(const char* op, const Tensor& x, const PoolArguments& arguments) {
  check_tensor(op, "input", x);
  MaxPool2d p{};
  static_cast<Pool2d&>(p) = make_pool2d(op, sizes_of(x), arguments);
  p.dtype = floating_dtype(op, "input", x);
  p.x = memory_of(x);
  p.x_stride = nchw_strides(x);
  return p;
}

Tensor allocate_y(const char* op, const Tensor& x, MaxPool2d& p) {
  const Dims sizes = with_spatial_size(sizes_of(x), p.OH, p.OW);
  Tensor y = empty_dense(op, x, sizes, is_channels_last(x), x.scalar_type());
  p.y = memory_of(y);
  p.y_stride = nchw_strides(y);
  return y;
}

ScalarType offset_type(const char* op, const Pool2d& p) {
  const int64_t taps = mul(op, "kernel_size", p.h.kernel, p.w.kernel);
  CHECK(taps <= INT32_MAX, op, ": kernel_size: got a window of ", taps,
        " taps, expected fewer than 2^31 when the winner is saved");
  return taps <= kMostByteTaps ? ScalarType::Byte : ScalarType::Int;
}

Tensor max_pool2d_inference(const Tensor& x, const IntList& kernel_size, const IntList& stride,
                            const IntList& padding, const IntList& dilation, bool ceil_mode) {
  const char* op = "max_pool2d";
  MaxPool2d p = make_max_pool2d(op, x, {kernel_size, stride, padding, dilation, ceil_mode});
  Tensor y = allocate_y(op, x, p);
  if (p.N > 0) launch(p, Context(x).queue);
  return y;
}

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& x, const IntList& kernel_size,
                                      const IntList& stride, const IntList& padding,
                                      const IntList& dilation, bool ceil_mode) {
  const char* op = "max_pool2d";
  MaxPool2d p = make_max_pool2d(op, x, {kernel_size, stride, padding, dilation, ceil_mode});
  const ScalarType type = offset_type(op, p);
  Tensor y = allocate_y(op, x, p);
  Tensor offsets = empty_strided(y, sizes_of(y), strides_of(y), type);
  p.offsets = memory_of(offsets);
  p.wide_offsets = type == ScalarType::Int;
  if (p.N > 0) launch(p, Context(x).queue);
  return {y, offsets};
}

// The geometry of a saved `offsets` tensor, checked against the arguments that come with it.
Pool2d make_from_offsets(const char* op, const Tensor& offsets, const IntList& input_size,
                         const PoolArguments& arguments) {
  check_tensor(op, "offsets", offsets);
  const Pair size = pair_of(op, "input_size", input_size, 1);
  const Dims sizes = sizes_of(offsets);
  check_pool_input(op, "offsets", sizes);
  Pool2d p = make_pool2d(op, with_spatial_size(sizes, size.first, size.second), arguments);
  check_pooled_shape(op, "offsets", sizes, with_spatial_size(sizes, p.OH, p.OW));
  CHECK(offsets.scalar_type() == offset_type(op, p), op, ": offsets: got dtype ",
        torch::headeronly::toString(offsets.scalar_type()), ", expected ",
        torch::headeronly::toString(offset_type(op, p)));
  return p;
}

Tensor max_pool2d_backward(const Tensor& grad_y, const Tensor& offsets, const IntList& input_size,
                           const IntList& kernel_size, const IntList& stride,
                           const IntList& padding, const IntList& dilation, bool ceil_mode) {
  const char* op = "max_pool2d_backward";
  check_tensor(op, "grad_y", grad_y);
  MaxPool2dBackward p{};
  static_cast<Pool2d&>(p) = make_from_offsets(op, offsets, input_size,
                                              {kernel_size, stride, padding, dilation, ceil_mode});
  check_pooled_shape(op, "grad_y", sizes_of(grad_y), sizes_of(offsets));
  p.dtype = floating_dtype(op, "grad_y", grad_y);
  Tensor grad_x = empty_dense(op, grad_y, with_spatial_size(sizes_of(grad_y), p.H, p.W),
                              is_channels_last(offsets), grad_y.scalar_type());
  p.grad_y = memory_of(grad_y);
  p.offsets = memory_of(offsets);
  p.grad_x = memory_of(grad_x);
  p.wide_offsets = offsets.scalar_type() == ScalarType::Int;
  p.grad_y_stride = nchw_strides(grad_y);
  p.offset_stride = nchw_strides(offsets);
  p.grad_x_stride = nchw_strides(grad_x);
  if (p.N > 0) launch(p, Context(grad_y).queue);
  return grad_x;
}

Tensor max_pool2d_indices(const Tensor& offsets, const IntList& input_size,
                          const IntList& kernel_size, const IntList& stride, const IntList& padding,
                          const IntList& dilation, bool ceil_mode) {
  const char* op = "max_pool2d_indices";
  MaxPool2dIndices p{};
  static_cast<Pool2d&>(p) = make_from_offsets(op, offsets, input_size,
                                              {kernel_size, stride, padding, dilation, ceil_mode});
  Tensor indices =
      empty_dense(op, offsets, sizes_of(offsets), is_channels_last(offsets), ScalarType::Long);
  p.offsets = memory_of(offsets);
  p.indices = memory_of(indices);
  p.wide_offsets = offsets.scalar_type() == ScalarType::Int;
  p.offset_stride = nchw_strides(offsets);
  p.index_stride = nchw_strides(indices);
  if (p.N > 0) launch(p, Context(offsets).queue);
  return indices;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("max_pool2d", KERNEL(&max_pool2d));
  library.impl("max_pool2d_inference", KERNEL(&max_pool2d_inference));
  library.impl("max_pool2d_backward", KERNEL(&max_pool2d_backward));
  library.impl("max_pool2d_indices", KERNEL(&max_pool2d_indices));
}

}  // namespace torchext
