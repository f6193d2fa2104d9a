// binary_cross_entropy: checks, allocation and registration.
#include "binary_cross_entropy.h"

#include "../common/dense.h"

namespace torchext {
namespace {

using Optional = std::optional<Tensor>;

Tensor run(const char* op, const Tensor* grad_loss, const Tensor& input, const Tensor& target,
           const Optional& weight, const Optional& pos_weight, bool logits) {
  check_tensor(op, "input", input);
  BinaryCrossEntropy p{};
  p.dtype = floating_dtype(op, "input", input);
  CHECK(logits || !pos_weight.has_value(), op,
        ": pos_weight: got one, expected none for probabilities");
  const Tensor x = densified(input);
  std::vector<Tensor> kept;  // until the launch is over
  const auto laid_out = [&](const char* argument, const Tensor& tensor) {
    check_like(op, argument, tensor, input);
    kept.push_back(laid_out_as(x, tensor));
    return static_cast<const void*>(memory_of(kept.back()));
  };
  p.target = laid_out("target", target);
  if (weight.has_value()) p.weight = laid_out("weight", *weight);
  if (pos_weight.has_value()) p.pos_weight = laid_out("pos_weight", *pos_weight);
  if (grad_loss) p.grad_loss = laid_out("grad_loss", *grad_loss);
  Tensor y = empty_as(x);
  p.count = x.numel();
  p.logits = logits;
  p.x = memory_of(x);
  p.y = memory_of(y);
  if (p.count > 0) launch(p, Context(x).queue);
  return y;
}

Tensor binary_cross_entropy(const Tensor& input, const Tensor& target, const Optional& weight,
                            const Optional& pos_weight, bool logits) {
  return run("binary_cross_entropy", nullptr, input, target, weight, pos_weight, logits);
}

Tensor binary_cross_entropy_backward(const Tensor& grad_loss, const Tensor& input,
                                     const Tensor& target, const Optional& weight,
                                     const Optional& pos_weight, bool logits) {
  return run("binary_cross_entropy_backward", &grad_loss, input, target, weight, pos_weight,
             logits);
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("binary_cross_entropy", KERNEL(&binary_cross_entropy));
  library.impl("binary_cross_entropy_inference", KERNEL(&binary_cross_entropy));
  library.impl("binary_cross_entropy_backward", KERNEL(&binary_cross_entropy_backward));
}

}  // namespace torchext
