// layer_norm (op/layer_norm.h): a team of threads makes a row, which it reads once. Backward: a
// team takes many rows, so that its sums for the weights' gradients stay in registers; then the
// teams' sums are added up. Rows too long for that have those sums made by a kernel of their own.
#include "../op/layer_norm.h"
#include "column_sums.cuh"
#include "rows.cuh"
#include "tile/math.cuh"
#include "tile/queue.cuh"

namespace torchext {
namespace {

template <class T>
struct Forward {
  int64_t rows, size;
  Compute<T> eps;
  const T *x, *residual;
  const Compute<T>*weight, *bias;
  T *y, *sum;
  Compute<T>*mean, *rstd;
};

// Weights lie in the type computed in: up to 8 numbers of 4 bytes, or one.
template <int V, class F>
__device__ __forceinline__ Pack<F, V> weights_at(const F* weights, int64_t at, F none) {
  if (weights) return tile::load<V>(weights + at);
  Pack<F, V> pack;
#pragma unroll
  for (int k = 0; k < V; ++k) pack.lanes[k] = none;
  return pack;
}

template <class T, int V, int kTeam, bool kAdds>
__global__ void __launch_bounds__(kRowThreads, 2) layer_norm_kernel(const Forward<T> p) {
  using F = Compute<T>;
  const int64_t row = row_of_team<kTeam>();
  if (row >= p.rows) return;  // a whole team
  if (kAdds) {
    const Row<T, V, kTeam> x(p.x + row * p.size, p.size), other(p.residual + row * p.size, p.size);
    x.each_with(other, [&](const Pack<T, V>& a, const Pack<T, V>& b, int64_t at) {
      F sum[V];
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] = tile::widen(a.lanes[k]) + tile::widen(b.lanes[k]);
      tile::store_narrow(p.sum + row * p.size + at, sum);
    });
  }
  // The sum comes back from the first cache: to each thread what it has written itself.
  const Row<T, V, kTeam> x((kAdds ? p.sum : p.x) + row * p.size, p.size);
  F mean = 0;
  x.each([&](const Pack<T, V>& pack, int64_t) {
#pragma unroll
    for (int k = 0; k < V; ++k) mean += tile::widen(pack.lanes[k]);
  });
  mean = over_team<tile::Sum, kTeam>(mean) / static_cast<F>(p.size);
  F squares = 0;
  x.each([&](const Pack<T, V>& pack, int64_t) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const F distance = tile::widen(pack.lanes[k]) - mean;
      squares += distance * distance;
    }
  });
  squares = over_team<tile::Sum, kTeam>(squares);
  const F rstd = tile::rsqrt_of(squares / static_cast<F>(p.size) + p.eps);
  x.each([&](const Pack<T, V>& pack, int64_t at) {
    const auto weight = weights_at<V>(p.weight, at, F(1)), bias = weights_at<V>(p.bias, at, F(0));
    F y[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      y[k] = (tile::widen(pack.lanes[k]) - mean) * rstd * weight.lanes[k] + bias.lanes[k];
    }
    tile::store_narrow(p.y + row * p.size + at, y);
  });
  if (threadIdx.x % kTeam == 0) {
    p.mean[row] = mean;
    p.rstd[row] = rstd;
  }
}

template <class T>
struct Backward {
  int64_t rows, size, rows_of_team;
  const T *grad_y, *x;
  const Compute<T>*mean, *rstd, *weight;
  T* grad_x;
  Compute<T>* parts;  // [teams][2][size], or null
};

template <class T, int V, int kTeam, bool kSums>
__global__ void __launch_bounds__(kRowThreads, kSums ? 1 : 2)
    layer_norm_backward_kernel(const Backward<T> p) {
  using F = Compute<T>;
  using OneRow = Row<T, V, kTeam>;
  const int64_t team = row_of_team<kTeam>();
  const int64_t end = min_of((team + 1) * p.rows_of_team, p.rows);
  F of_weight[kSums ? OneRow::kKept : 1][V] = {}, of_bias[kSums ? OneRow::kKept : 1][V] = {};
  for (int64_t row = team * p.rows_of_team; row < end; ++row) {
    const OneRow g(p.grad_y + row * p.size, p.size), x(p.x + row * p.size, p.size);
    const F mean = p.mean[row], rstd = p.rstd[row];
    F sum = 0, products = 0;
    g.each_with(x, [&](const Pack<T, V>& grad, const Pack<T, V>& own, int64_t at) {
      const auto weight = weights_at<V>(p.weight, at, F(1));
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const F weighted = tile::widen(grad.lanes[k]) * weight.lanes[k];
        sum += weighted;
        products += weighted * ((tile::widen(own.lanes[k]) - mean) * rstd);
      }
    });
    sum = over_team<tile::Sum, kTeam>(sum) / static_cast<F>(p.size);
    products = over_team<tile::Sum, kTeam>(products) / static_cast<F>(p.size);
    g.each_with(x, [&](const Pack<T, V>& grad, const Pack<T, V>& own, int64_t at) {
      const auto weight = weights_at<V>(p.weight, at, F(1));
      F grad_x[V];
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const F xhat = (tile::widen(own.lanes[k]) - mean) * rstd;
        const F weighted = tile::widen(grad.lanes[k]) * weight.lanes[k];
        grad_x[k] = (weighted - sum - xhat * products) * rstd;
      }
      tile::store_narrow(p.grad_x + row * p.size + at, grad_x);
    });
    if constexpr (kSums) {
#pragma unroll
      for (int i = 0; i < OneRow::kKept; ++i) {
        if (g.first + i * OneRow::kStep >= p.size) break;
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const F grad = tile::widen(g.kept[i].lanes[k]);
          of_weight[i][k] += grad * ((tile::widen(x.kept[i].lanes[k]) - mean) * rstd);
          of_bias[i][k] += grad;
        }
      }
    }
  }
  if constexpr (kSums) {
    if (team * p.rows_of_team >= p.rows) return;
    F* parts = p.parts + team * 2 * p.size;
#pragma unroll
    for (int i = 0; i < OneRow::kKept; ++i) {
      const int64_t at = static_cast<int64_t>(threadIdx.x % kTeam) * V + i * OneRow::kStep;
      if (at >= p.size) break;
      Pack<F, V> weight, bias;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        weight.lanes[k] = of_weight[i][k];
        bias.lanes[k] = of_bias[i][k];
      }
      tile::store(parts + at, weight);
      tile::store(parts + p.size + at, bias);
    }
  }
}

// The sums of long rows: a thread takes V columns of rows_of_team rows.
template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads)
    layer_norm_weights_kernel(const Backward<T> p) {
  using F = Compute<T>;
  const int64_t at = pointwise_begin<V>(), part = blockIdx.y;
  if (at >= p.size) return;
  const int64_t end = min_of((part + 1) * p.rows_of_team, p.rows);
  Pack<F, V> weight{}, bias{};
  for (int64_t row = part * p.rows_of_team; row < end; ++row) {
    const auto grad = tile::load<V>(p.grad_y + row * p.size + at);
    const auto x = tile::load<V>(p.x + row * p.size + at);
    const F mean = p.mean[row], rstd = p.rstd[row];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const F value = tile::widen(grad.lanes[k]);
      weight.lanes[k] += value * ((tile::widen(x.lanes[k]) - mean) * rstd);
      bias.lanes[k] += value;
    }
  }
  tile::store(p.parts + part * 2 * p.size + at, weight);
  tile::store(p.parts + (part * 2 + 1) * p.size + at, bias);
}

template <class T>
void forward(const LayerNorm& n, const Queue& queue) {
  using F = Compute<T>;
  const Forward<T> p{n.rows,
                     n.size,
                     static_cast<F>(n.eps),
                     static_cast<const T*>(n.x),
                     static_cast<const T*>(n.residual),
                     static_cast<const F*>(n.weight),
                     static_cast<const F*>(n.bias),
                     static_cast<T*>(n.y),
                     static_cast<T*>(n.sum),
                     static_cast<F*>(n.mean),
                     static_cast<F*>(n.rstd)};
  const bool vectors =
      rows_in_vectors<T>(n.size, p.x, p.residual, p.y, p.sum) && all_aligned<F>(p.weight, p.bias);
  for_rows<T>(n.size, vectors, [&](auto V, auto team) {
    const auto kernel = n.residual ? layer_norm_kernel<T, V(), team(), true>
                                   : layer_norm_kernel<T, V(), team(), false>;
    launch_rows<T>("layer_norm", kernel, n.rows, team(), queue, p);
  });
}

template <class T>
void backward(const LayerNormBackward& n, const Queue& queue) {
  using F = Compute<T>;
  constexpr int64_t kMostParts = 256;  // blocks: two for each SM of a large chip
  const char* op = "layer_norm_backward";
  Backward<T> p{n.rows,
                n.size,
                1,
                static_cast<const T*>(n.grad_y),
                static_cast<const T*>(n.x),
                static_cast<const F*>(n.mean),
                static_cast<const F*>(n.rstd),
                static_cast<const F*>(n.weight),
                static_cast<T*>(n.grad_x),
                nullptr};
  const bool vectors =
      rows_in_vectors<T>(n.size, p.grad_y, p.x, p.grad_x) && all_aligned<F>(p.weight);
  const bool sums = n.grad_weight != nullptr;
  int64_t parts = 0;
  for_rows<T>(n.size, vectors, [&](auto V, auto team) {
    using OneRow = Row<T, V(), team()>;
    const bool fits = n.size <= OneRow::kKept * OneRow::kStep;
    if (sums && fits) {
      const int64_t teams = kMostParts * (kRowThreads / team());
      p.rows_of_team = max_of(ceil_div(n.rows, teams), int64_t{1});
      parts = ceil_div(n.rows, p.rows_of_team);
      p.parts = tile::scratch<F>(queue, parts * 2 * n.size);
      if (n.rows == 0) return;
      const auto kernel = layer_norm_backward_kernel<T, V(), team(), true>;
      return launch_rows<T>(op, kernel, parts, team(), queue, p);
    }
    const auto kernel = layer_norm_backward_kernel<T, V(), team(), false>;
    if (n.rows > 0) launch_rows<T>(op, kernel, n.rows, team(), queue, p);
    if (!sums) return;
    p.rows_of_team = max_of(ceil_div(n.rows, kMostParts), int64_t{1});
    parts = ceil_div(n.rows, p.rows_of_team);
    p.parts = tile::scratch<F>(queue, parts * 2 * n.size);
    if (parts == 0) return;
    dim3 grid = tile::blocks_for(op, ceil_div(n.size, int64_t{V()}), kPointwiseThreads);
    grid.y = static_cast<unsigned>(parts);
    tile::launch_kernel(op, layer_norm_weights_kernel<T, V()>, grid, kPointwiseThreads, 0, queue,
                        p);
  });
  if (!sums) return;
  const int64_t stride = 2 * n.size;
  const F* of_bias = parts ? p.parts + n.size : p.parts;
  sum_columns<F>(op, {parts, n.size, stride, p.parts, static_cast<F*>(n.grad_weight)}, queue);
  sum_columns<F>(op, {parts, n.size, stride, of_bias, static_cast<F*>(n.grad_bias)}, queue);
}

}  // namespace

void launch(const LayerNorm& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { forward<decltype(zero)>(p, queue); });
}

void launch(const LayerNormBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

}  // namespace torchext
