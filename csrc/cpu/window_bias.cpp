// The bias of window attention, compiled once per ISA.
#include "window_bias.h"

#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class T>
static void look_up(const WindowBias& p, int64_t begin, int64_t end) {
  for (int64_t head = begin; head < end; ++head) {
    const T* table = static_cast<const T*>(p.table) + head * p.head;
    Compute<T>* to = static_cast<Compute<T>*>(p.to) + head * p.pairs;
    for (int64_t k = 0; k < p.pairs; ++k) to[k] = load<1>(table + p.index[k] * p.row)[0];
  }
}

template <class T>
static void add_up(const WindowBiasGradient& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  for (int64_t head = begin; head < end; ++head) {
    const F* grad = static_cast<const F*>(p.grad) + head * p.pairs;
    F* sums = static_cast<F*>(p.sums) + head * p.entries;
    for (int64_t entry = 0; entry < p.entries; ++entry) sums[entry] = 0;
    for (int64_t k = 0; k < p.pairs; ++k) sums[p.index[k]] += grad[k];
    T* to = static_cast<T*>(p.grad_table) + head;
    for (int64_t entry = 0; entry < p.entries; ++entry) {
      store<1>(to + entry * p.heads, Vec<F, 1>{sums[entry]});
    }
  }
}

}  // namespace

void run(const WindowBias& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(look_up, p, begin, end) }
void run(const WindowBiasGradient& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(add_up, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
