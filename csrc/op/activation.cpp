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
  p.x = memory_of(x);
  p.y = memory_of(y);
  if (p.count > 0) launch(p, Context(x).queue);
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
  p.grad_y = memory_of(g);
  p.x = memory_of(x);
  p.grad_x = memory_of(grad_x);
  if (p.count > 0) launch(p, Context(x).queue);
  return grad_x;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("activation", KERNEL(&activation));
  library.impl("activation_inference", KERNEL(&activation));
  library.impl("activation_backward", KERNEL(&activation_backward));
}

}  // namespace torchext
