// layer_norm on the CPU: a row stays in the first cache while it is read three times (mean,
// variance, result). Gradients of the weights: blocks of columns, summed over all rows.
#include "../op/layer_norm.h"

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

template <class T>
static void backward(const LayerNormBackward& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const F* weight = static_cast<const F*>(p.weight);
  for (int64_t row = begin; row < end; ++row) {
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
      store_row(grad_x + k, (weighted(k, part) - of_g - xhat(k, part) * of_products) * rstd, part);
    });
  }
}

constexpr int64_t kRowsAtOnce = 128;  // summed by themselves first: long sums keep their precision

template <class T>
static void weights(const LayerNormWeights& p, int64_t begin, int64_t end) {
  using F = Compute<T>;
  const F *mean = static_cast<const F*>(p.mean), *rstd = static_cast<const F*>(p.rstd);
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t first = piece * kColumns, columns = min_of(kColumns, p.size - first);
    for_each_vector<T>(columns, [&](int64_t k, auto part) {
      const int64_t column = first + k;
      RowVector<T> weight{}, bias{};
      for (int64_t row = 0; row < p.rows;) {
        RowVector<T> some_weight{}, some_bias{};
        for (const int64_t stop = min_of(p.rows, row + kRowsAtOnce); row < stop; ++row) {
          const auto g = load_row(static_cast<const T*>(p.grad_y) + row * p.size + column, part);
          const auto v = load_row(static_cast<const T*>(p.x) + row * p.size + column, part);
          some_weight += g * ((v - mean[row]) * rstd[row]);
          some_bias += g;
        }
        weight += some_weight;
        bias += some_bias;
      }
      store_row(static_cast<F*>(p.grad_weight) + column, weight, part);
      store_row(static_cast<F*>(p.grad_bias) + column, bias, part);
    });
  }
}

}  // namespace

void run(const LayerNorm& p, int64_t begin, int64_t end) { FOR_EACH_DTYPE(forward, p, begin, end) }
void run(const LayerNormBackward& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(backward, p, begin, end)
}
void run(const LayerNormWeights& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(weights, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
