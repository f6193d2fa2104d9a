// layer_norm on the CPU: a row stays in the first cache while it is read three times (mean,
// variance, result).
#include "layer_norm.h"

#include "dense.h"
#include "math.h"
#include "rows.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class T>
static void forward(const LayerNorm& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const F *weight = static_cast<const F*>(p.weight), *bias = static_cast<const F*>(p.bias);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.size;
    if (p.residual != nullptr) {
      const T* residual = static_cast<const T*>(p.residual) + row * p.size;
      T* sum = static_cast<T*>(p.sum) + row * p.size;
      for_each_vector<T>(p.size, [&](int64_t k, auto part) {
        store_row(sum + k, load_row(x + k, part) + load_row(residual + k, part), part);
      });
      x = sum;
    }
    const F mean =
        sum_over_row<T>(p.size, [&](int64_t k, auto part) { return load_row(x + k, part); }) /
        static_cast<F>(p.size);
    const F squares = sum_over_row<T>(p.size, [&](int64_t k, auto part) {
      const auto d = load_row(x + k, part) - mean;
      return d * d;
    });
    const F rstd = 1 / square_root(squares / static_cast<F>(p.size) + static_cast<F>(p.eps));
    T* y = static_cast<T*>(p.y) + row * p.size;
    for_each_vector<T>(p.size, [&](int64_t k, auto part) {
      auto v = (load_row(x + k, part) - mean) * rstd;
      if (weight != nullptr) v *= load_row(weight + k, part);
      if (bias != nullptr) v += load_row(bias + k, part);
      store_row(y + k, v, part);
    });
    static_cast<F*>(p.mean)[row] = mean;
    static_cast<F*>(p.rstd)[row] = rstd;
  }
}

template <class F>
INLINE F* row_of(void* rows, int64_t row, int64_t size) {
  return rows != nullptr ? static_cast<F*>(rows) + row * size : nullptr;
}

template <class T>
static void backward_row(const LayerNormRows& p, int64_t row, Compute<T>* of_weight,
                         Compute<T>* of_bias) {
  using F = Compute<T>;
  const F* weight = static_cast<const F*>(p.weight);
  const T* grad_y = static_cast<const T*>(p.grad_y) + row * p.size;
  const T* x = static_cast<const T*>(p.x) + row * p.size;
  const F mean = static_cast<const F*>(p.mean)[row], rstd = static_cast<const F*>(p.rstd)[row];
  const auto weighted = [&](int64_t k, auto part) {
    const auto g = load_row(grad_y + k, part);
    return weight != nullptr ? g * load_row(weight + k, part) : g;
  };
  const auto xhat = [&](int64_t k, auto part) { return (load_row(x + k, part) - mean) * rstd; };
  const F of_g = sum_over_row<T>(p.size, weighted) / static_cast<F>(p.size);
  const F of_products =
      sum_over_row<T>(p.size,
                      [&](int64_t k, auto part) { return weighted(k, part) * xhat(k, part); }) /
      static_cast<F>(p.size);
  T* grad_x = static_cast<T*>(p.grad_x) + row * p.size;
  for_each_vector<T>(p.size, [&](int64_t k, auto part) {
    const auto v = xhat(k, part);
    store_row(grad_x + k, (weighted(k, part) - of_g - v * of_products) * rstd, part);
    if (of_weight == nullptr) return;
    const auto g = load_row(grad_y + k, part);
    store_row(of_weight + k, load_row(of_weight + k, part) + g * v, part);
    store_row(of_bias + k, load_row(of_bias + k, part) + g, part);
  });
}

template <class T>
static void backward(const LayerNormRows& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  for (int64_t block = begin; block < end; ++block) {
    F* of_weight = row_of<F>(p.weight_sums, block, p.size);
    F* of_bias = row_of<F>(p.bias_sums, block, p.size);
    for (int64_t k = 0; of_weight != nullptr && k < p.size; ++k) of_weight[k] = of_bias[k] = 0;
    const int64_t first = p.rows * block / p.blocks, last = p.rows * (block + 1) / p.blocks;
    for (int64_t row = first; row < last; ++row) backward_row<T>(p, row, of_weight, of_bias);
  }
}

}  // namespace

void run(const LayerNorm& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(forward, p, begin, end) }
void run(const LayerNormRows& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(backward, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
