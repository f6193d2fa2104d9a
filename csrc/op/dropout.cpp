// dropout: checks, allocation and registration. Its gradient is dropout of the gradient.
#include "dropout.h"

#include <cmath>

#include "../common/dense.h"

namespace torchext {
namespace {

Tensor dropout(const Tensor& input, double probability, int64_t seed, bool scaled) {
  const char* op = "dropout";
  check_tensor(op, "input", input);
  Dropout p{};
  p.dtype = floating_dtype(op, "input", input);
  CHECK(probability >= 0 && probability <= 1, op, ": p: got ", probability, ", expected 0 to 1");
  const Tensor x = as_contiguous(input);
  Tensor y = empty_as(x);
  p.count = x.numel();
  p.threshold = static_cast<uint64_t>(std::llround(probability * 4294967296.0));
  p.scale = scaled && probability < 1 ? 1 / (1 - probability) : 1;
  p.seed = static_cast<uint64_t>(seed);
  p.x = memory_of(x);
  p.y = memory_of(y);
  if (p.count > 0) launch(p, Context(x).queue);
  return y;
}

}  // namespace

REGISTER_KERNELS(library) {
  library.impl("dropout", KERNEL(&dropout));
  library.impl("dropout_inference", KERNEL(&dropout));
}

}  // namespace torchext
