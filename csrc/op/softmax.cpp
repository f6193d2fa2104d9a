// softmax and log_softmax: checks, allocation and registration.
#include "softmax.h"

#include "../common/dense.h"

namespace torchext {
namespace {

// The axis `dim` among the others, in memory: of a channels_last image the channels are last.
template <class P>
void set_sizes(P& p, const Tensor& x, int64_t dim) {
  p.outer = p.inner = 1;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (d < dim) p.outer *= x.size(d);
    if (d > dim) p.inner *= x.size(d);
  }
  p.size = x.dim() ? x.size(dim) : 1;
  if (!x.is_contiguous()) {
    p.outer *= p.inner;
    p.inner = 1;
  }
}

int64_t checked_dim(const char* op, const Tensor& x, int64_t dim) {
  const int64_t rank = std::max<int64_t>(x.dim(), 1);
  CHECK(dim >= -rank && dim < rank, op, ": dim: got ", dim, ", expected one of the ", rank,
        " dimensions");
  return dim < 0 ? dim + rank : dim;
}

Tensor rows_along(const Tensor& x, int64_t dim) {
  return dim == 1 && x.dim() == 4 && is_channels_last(x) ? densified(x) : as_contiguous(x);
}

Tensor softmax(const Tensor& input, int64_t dim, bool log) {
  const char* op = "softmax";
  check_tensor(op, "input", input);
  Softmax p{};
  p.dtype = floating_dtype(op, "input", input);
  dim = checked_dim(op, input, dim);
  const Tensor x = rows_along(input, dim);
  Tensor y = empty_as(x);
  set_sizes(p, x, dim);
  p.log = log;
  p.x = memory_of(x);
  p.y = memory_of(y);
  if (x.numel() > 0) launch(p, Context(x).queue);
  return y;
}

Tensor softmax_backward(const Tensor& grad_y, const Tensor& result, int64_t dim, bool log) {
  const char* op = "softmax_backward";
  check_tensor(op, "y", result);
  SoftmaxBackward p{};
  p.dtype = floating_dtype(op, "y", result);
  dim = checked_dim(op, result, dim);
  check_like(op, "grad_y", grad_y, result);
  const Tensor y = rows_along(result, dim), g = laid_out_as(y, grad_y);
  Tensor grad_x = empty_as(y);
  set_sizes(p, y, dim);
  p.log = log;
  p.grad_y = memory_of(g);
  p.y = memory_of(y);
  p.grad_x = memory_of(grad_x);
  if (y.numel() > 0) launch(p, Context(y).queue);
  return grad_x;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("softmax", KERNEL(&softmax));
  library.impl("softmax_inference", KERNEL(&softmax));
  library.impl("softmax_backward", KERNEL(&softmax_backward));
}

}  // namespace torchext
