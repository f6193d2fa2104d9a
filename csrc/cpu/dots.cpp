// Products of few rows, compiled once per ISA.
#include "dots.h"

#include "activation.h"
#include "dot_tile.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class T>
static void multiply(const Dots& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const int64_t first = begin * kDotColumns, last = min_of(p.N, end * kDotColumns);
  const DotRows<T> x{static_cast<const T*>(p.x), p.x_row};
  const DotRows<T> w{static_cast<const T*>(p.w) + first * p.w_row, p.w_row};
  for_each_dot(x, p.M, w, last - first, p.K, [&](int64_t m, int64_t column, F sum) {
    const int64_t n = first + column;
    Vec<F, 1> v{sum};
    if (p.bias != nullptr) v += load<1>(static_cast<const T*>(p.bias) + n);
    if (p.residual != nullptr) {
      v += load<1>(static_cast<const T*>(p.residual) + (m * p.residual_row + n));
    }
    store<1>(static_cast<T*>(p.y) + (m * p.y_row + n), activate(p.activation, v));
  });
}

}  // namespace

void run(const Dots& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(multiply, p, begin, end) }

}  // namespace torchext::cpu::TORCHEXT_ISA
