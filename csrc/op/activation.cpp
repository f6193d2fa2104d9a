// activation: checks, allocation and registration.
#include "activation.h"

#include "../common/dense.h"

namespace torchext {
namespace {

Activation checked_kind(const char* op, int64_t kind) {
  CHECK(kind >= 0 && kind < kActivations, op, ": kind: got ", kind, ", expected 0 to ",
        kActivations - 1);
  return static_cast<Activation>(kind);
}

Tensor activation(const Tensor& input, int64_t kind) {
  const char* op = "activation";
  check_tensor(op, "input", input);
  Activate p{};
  p.dtype = floating_dtype(op, "input", input);
  p.kind = checked_kind(op, kind);
  const Tensor x = densified(input);
  Tensor y = empty_as(x);
  p.count = x.numel();
  p.x = x.data_ptr();
  p.y = y.data_ptr();
  if (p.count > 0) launch(p, Context(x).stream);
  return y;
}

Tensor activation_backward(const Tensor& grad_y, const Tensor& input, int64_t kind) {
  const char* op = "activation_backward";
  check_tensor(op, "input", input);
  ActivateBackward p{};
  p.dtype = floating_dtype(op, "input", input);
  p.kind = checked_kind(op, kind);
  check_like(op, "grad_y", grad_y, input);
  const Tensor x = densified(input), g = laid_out_as(x, grad_y);
  Tensor grad_x = empty_as(x);
  p.count = x.numel();
  p.grad_y = g.data_ptr();
  p.x = x.data_ptr();
  p.grad_x = grad_x.data_ptr();
  if (p.count > 0) launch(p, Context(x).stream);
  return grad_x;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("activation", TORCH_BOX(&activation));
  library.impl("activation_inference", TORCH_BOX(&activation));
  library.impl("activation_backward", TORCH_BOX(&activation_backward));
}

}  // namespace torchext
