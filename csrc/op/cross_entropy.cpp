// cross_entropy: checks, allocation and registration. A class out of range is an error on the CPU,
// NaN on a GPU, where nobody waits to look.
#include "cross_entropy.h"

#include "../common/dense.h"

namespace torchext {
namespace {

enum Reduction : int64_t { kNone, kMean, kSum };

// The arguments, made contiguous; an item is one pixel of one image.
struct Arguments {
  Tensor x, target;
  std::optional<Tensor> weight;
};

Arguments check_arguments(CrossEntropy& p, const char* op, const Tensor& input,
                          const Tensor& target, const std::optional<Tensor>& weight,
                          int64_t reduction, int64_t ignore_index, double label_smoothing) {
  check_tensor(op, "input", input);
  check_tensor(op, "target", target);
  p.dtype = floating_dtype(op, "input", input);
  CHECK(input.dim() >= 1, op, ": input: got a number, expected classes");
  const int64_t axis = input.dim() > 1;
  p.outer = axis ? input.size(0) : 1;
  p.classes = input.size(axis);
  p.inner = 1;
  for (int64_t d = 2; d < input.dim(); ++d) p.inner *= input.size(d);
  CHECK(p.classes > 0, op, ": input: got no classes, expected at least 1");
  CHECK(reduction >= kNone && reduction <= kSum, op, ": reduction: got ", reduction,
        ", expected 0 (none), 1 (mean) or 2 (sum)");
  CHECK(label_smoothing >= 0 && label_smoothing <= 1, op, ": label_smoothing: got ",
        label_smoothing, ", expected 0 to 1");
  const bool classes = target.scalar_type() == ScalarType::Long;
  if (classes) {
    bool fits = target.dim() == input.dim() - 1;
    for (int64_t d = 0; fits && d < target.dim(); ++d) {
      fits = target.size(d) == input.size(d < axis ? d : d + 1);
    }
    CHECK(fits, op, ": target: got shape ", shape_of(target), ", expected that of the input ",
          shape_of(input), " without its classes");
  } else {
    check_like(op, "target", target, input);
  }
  Arguments a{as_contiguous(input), as_contiguous(target),
              weight_for(op, "weight", input, weight, p.classes)};
  p.x = memory_of(a.x);
  p.weight = memory_of(a.weight);
  p.ignore_index = ignore_index;
  p.label_smoothing = label_smoothing;
  if (classes) p.target = memory_of(a.target);
  if (!classes) p.probabilities = memory_of(a.target);
  return a;
}

// The sizes of the input without its classes.
std::vector<int64_t> item_sizes(const Tensor& x) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (d != (x.dim() > 1)) sizes.push_back(x.size(d));
  }
  return sizes;
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy(const Tensor& input, const Tensor& target,
                                                 const std::optional<Tensor>& weight,
                                                 int64_t reduction, int64_t ignore_index,
                                                 double label_smoothing) {
  const char* op = "cross_entropy";
  CrossEntropyLoss p{};
  const Arguments a =
      check_arguments(p, op, input, target, weight, reduction, ignore_index, label_smoothing);
  const ScalarType type = compute_type(input);
  const auto sizes = item_sizes(input);
  Tensor loss = empty_contiguous(a.x, sizes.data(), sizes.size(), type);
  Tensor lse = empty_contiguous(a.x, sizes.data(), sizes.size(), type);
  Tensor total = empty_leading(a.x, 0, type);
  p.loss = memory_of(loss);
  p.lse = memory_of(lse);
  p.total = memory_of(total);
  p.mean = reduction == kMean;
  Tensor result = reduction == kNone ? loss : empty_leading(a.x, 0, type);
  if (reduction != kNone) p.reduced = memory_of(result);
  launch(p, Context(a.x).queue);
  if (type != input.scalar_type()) result = torch::stable::to(result, input.scalar_type());
  return {result, lse, total};
}

Tensor cross_entropy_inference(const Tensor& input, const Tensor& target,
                               const std::optional<Tensor>& weight, int64_t reduction,
                               int64_t ignore_index, double label_smoothing) {
  return std::get<0>(
      cross_entropy(input, target, weight, reduction, ignore_index, label_smoothing));
}

Tensor cross_entropy_backward(const Tensor& grad_loss, const Tensor& input, const Tensor& target,
                              const std::optional<Tensor>& weight, const Tensor& lse,
                              const Tensor& total_weight, int64_t reduction, int64_t ignore_index,
                              double label_smoothing) {
  const char* op = "cross_entropy_backward";
  CrossEntropyGradient p{};
  const Arguments a =
      check_arguments(p, op, input, target, weight, reduction, ignore_index, label_smoothing);
  const int64_t items = p.outer * p.inner;
  const Tensor l = statistics_for(op, "lse", input, lse, items);
  const Tensor total = statistics_for(op, "total_weight", input, total_weight, 1);
  check_tensor(op, "grad_loss", grad_loss);
  CHECK(grad_loss.numel() == (reduction == kNone ? items : 1), op, ": grad_loss: got ",
        grad_loss.numel(), " elements, expected one for each loss");
  floating_dtype(op, "grad_loss", grad_loss);
  const Tensor g = as_contiguous(torch::stable::to(grad_loss, compute_type(input)));
  Tensor grad_x = empty_as(a.x);
  p.lse = memory_of(l);
  p.grad_loss = memory_of(g);
  p.grad_x = memory_of(grad_x);
  p.one_gradient = reduction != kNone;
  if (reduction == kMean) p.total = memory_of(total);
  if (items > 0) launch(p, Context(a.x).queue);
  return grad_x;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("cross_entropy", KERNEL(&cross_entropy));
  library.impl("cross_entropy_inference", KERNEL(&cross_entropy_inference));
  library.impl("cross_entropy_backward", KERNEL(&cross_entropy_backward));
}

}  // namespace torchext
