// softmax, log_softmax and their gradients on the CPU: rows where the axis is adjacent in memory,
// else vectors of columns.
#include "../op/softmax.h"

#include "dense.h"
#include "softmax.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class T>
static void forward(const Softmax& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  F buffer[2048];
  for (int64_t n = begin; n < end; ++n) {
    const T* x = static_cast<const T*>(p.x) + n * p.size * p.inner;
    T* y = static_cast<T*>(p.y) + n * p.size * p.inner;
    if (p.inner == 1) {
      F* kept = nullptr;  // where exponentials wait for their sum: in y, unless it would round them
      if constexpr (sizeof(T) == sizeof(F)) {
        if (!p.log) kept = y;
      } else {
        if (!p.log && p.size * sizeof(F) <= sizeof buffer) kept = buffer;
      }
      const auto e = exponentials_of_row(x, p.size, [&](int64_t k, auto v, auto part) {
        if (kept != nullptr) store_row(kept + k, v, part);
      });
      const F log_sum = log_of(e.sum), factor = 1 / e.sum;
      for_each_vector<T>(p.size, [&](int64_t k, auto part) {
        if (kept != nullptr) return store_row(y + k, load_row(kept + k, part) * factor, part);
        const auto v = load_row(x + k, part) - e.largest;
        store_row(y + k, p.log ? v - log_sum : probability(v) * factor, part);
      });
      continue;
    }
    for_each_vector<T>(p.inner, [&](int64_t i, auto part) {
      const auto e = exponentials_of_columns(x + i, p.size, p.inner, part);
      const auto log_sum = vlog(e.sum);
      for (int64_t k = i; k < p.size * p.inner; k += p.inner) {
        const auto v = load_row(x + k, part) - e.largest;
        store_row(y + k, p.log ? v - log_sum : probability(v) / e.sum, part);
      }
    });
  }
}

template <class T>
static void backward(const SoftmaxBackward& p, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const T* grad_y = static_cast<const T*>(p.grad_y) + n * p.size * p.inner;
    const T* y = static_cast<const T*>(p.y) + n * p.size * p.inner;
    T* grad_x = static_cast<T*>(p.grad_x) + n * p.size * p.inner;
    const auto term = [&](int64_t k, auto part) {
      const auto g = load_row(grad_y + k, part);
      return p.log ? g : g * load_row(y + k, part);
    };
    const auto finish = [&](int64_t k, auto part, auto sum) {
      const auto g = load_row(grad_y + k, part), v = load_row(y + k, part);
      store_row(grad_x + k, p.log ? g - vexp(v) * sum : v * (g - sum), part);
    };
    if (p.inner == 1) {
      const auto sum = sum_over_row<T>(p.size, term);
      for_each_vector<T>(p.size, [&](int64_t k, auto part) { finish(k, part, sum); });
      continue;
    }
    for_each_vector<T>(p.inner, [&](int64_t i, auto part) {
      RowVector<T> sum{};
      for (int64_t k = i; k < p.size * p.inner; k += p.inner) sum += term(k, part);
      for (int64_t k = i; k < p.size * p.inner; k += p.inner) finish(k, part, sum);
    });
  }
}

}  // namespace

void run(const Softmax& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(forward, p, begin, end) }
void run(const SoftmaxBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(backward, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
