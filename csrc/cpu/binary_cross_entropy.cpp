// binary_cross_entropy and its gradient on the CPU: one long row, a piece of it at a time.
#include "../op/binary_cross_entropy.h"

#include "dense.h"
#include "math.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// log(1 + exp(-x))
template <class V>
INLINE V softplus_of_minus(V x) {
  return vlog1p(vexp(-absolute(x))) - at_most(x, 0);
}

template <class V>
INLINE V loss_of(bool logits, V x, V t, V q) {
  if (logits) return (1 - t) * x + q * softplus_of_minus(x);
  return (t - 1) * at_least(vlog(1 - x), -100) - t * at_least(vlog(x), -100);
}

template <class V>
INLINE V slope_of(bool logits, V x, V t, V q) {
  if (logits) return 1 - t - q * vsigmoid(-x);
  return (x - t) / at_least((1 - x) * x, LaneOf<V>(1e-12));
}

template <class T>
static void forward(const BinaryCrossEntropy& p, int64_t begin, int64_t end) {
  using V = RowVector<T>;
  const Range range = elements_of_pieces(begin, end, p.count);
  for_each_vector<T>(range.end - range.begin, [&](int64_t k, auto part) {
    const auto at = [&](const void* tensor) {
      return load_row(static_cast<const T*>(tensor) + range.begin + k, part);
    };
    const V x = at(p.x), t = at(p.target);
    const V q = p.pos_weight != nullptr ? (at(p.pos_weight) - 1) * t + 1 : V{} + 1;
    V y = p.grad_loss != nullptr ? at(p.grad_loss) * slope_of(p.logits, x, t, q)
                                 : loss_of(p.logits, x, t, q);
    if (p.weight != nullptr) y *= at(p.weight);
    store_row(static_cast<T*>(p.y) + range.begin + k, y, part);
  });
}

}  // namespace

void run(const BinaryCrossEntropy& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(forward, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
