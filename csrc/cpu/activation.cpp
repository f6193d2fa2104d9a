// activation and its gradient on the CPU: one long row, a piece of it at a time.
#include "activation.h"

#include "../op/activation.h"
#include "dense.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <Activation K>
struct Kind {
  static constexpr Activation value = K;
};
struct AnyKind {
  Activation value;
};

// Calls function with a constant kind where the activation is so short that choosing it for each
// vector would take as long.
template <class Function>
INLINE void with_kind(Activation kind, Function function) {
  switch (kind) {
    case Activation::relu:
      return function(Kind<Activation::relu>{});
    case Activation::relu6:
      return function(Kind<Activation::relu6>{});
    case Activation::hardswish:
      return function(Kind<Activation::hardswish>{});
    default:
      return function(AnyKind{kind});
  }
}

template <class T>
static void forward(const Activate& p, int64_t begin, int64_t end) {
  const Range range = elements_of_pieces(begin, end, p.count);
  const T* x = static_cast<const T*>(p.x) + range.begin;
  T* y = static_cast<T*>(p.y) + range.begin;
  with_kind(p.kind, [&](auto kind) {
    for_each_vector<T>(range.end - range.begin, [&](int64_t k, auto part) {
      store_row(y + k, activate(kind.value, load_row(x + k, part)), part);
    });
  });
}

template <class T>
static void backward(const ActivateBackward& p, int64_t begin, int64_t end) {
  const Range range = elements_of_pieces(begin, end, p.count);
  const T* grad_y = static_cast<const T*>(p.grad_y) + range.begin;
  const T* x = static_cast<const T*>(p.x) + range.begin;
  T* grad_x = static_cast<T*>(p.grad_x) + range.begin;
  with_kind(p.kind, [&](auto kind) {
    for_each_vector<T>(range.end - range.begin, [&](int64_t k, auto part) {
      const auto slope = derivative(kind.value, load_row(x + k, part));
      store_row(grad_x + k, times_derivative(kind.value, load_row(grad_y + k, part), slope), part);
    });
  });
}

}  // namespace

void run(const Activate& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(forward, p, begin, end) }
void run(const ActivateBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(backward, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
