// softmax and log_softmax (op/softmax.h): along rows a team of threads each, read once; across rows
// (inner > 1) a thread for V neighbouring columns, which it reads three times, from L2.
#include "../op/softmax.h"
#include "rows.cuh"
#include "tile/math.cuh"

namespace torchext {
namespace {

template <class T>
struct Forward {
  int64_t outer, size, inner;
  bool log;
  const T* x;
  T* y;
};

template <class T, int V, int kTeam>
__global__ void __launch_bounds__(kRowThreads, 2) softmax_kernel(const Forward<T> p) {
  using F = Compute<T>;
  const int64_t row = row_of_team<kTeam>();
  if (row >= p.outer) return;  // a whole team
  const Row<T, V, kTeam> x(p.x + row * p.size, p.size);
  F largest = -static_cast<F>(__builtin_inf());
  x.each([&](const Pack<T, V>& pack, int64_t) {
#pragma unroll
    for (int k = 0; k < V; ++k) largest = tile::Maximum()(largest, tile::widen(pack.lanes[k]));
  });
  largest = over_team<tile::Maximum, kTeam>(largest);
  F sum = 0;
  x.each([&](const Pack<T, V>& pack, int64_t) {
#pragma unroll
    for (int k = 0; k < V; ++k) sum += tile::exp_of(tile::widen(pack.lanes[k]) - largest);
  });
  sum = over_team<tile::Sum, kTeam>(sum);
  const F log_sum = p.log ? tile::log_of(sum) : F(0);
  x.each([&](const Pack<T, V>& pack, int64_t at) {
    F y[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const F value = tile::widen(pack.lanes[k]) - largest;
      y[k] = p.log ? value - log_sum : tile::exp_of(value) / sum;
    }
    tile::store_narrow(p.y + row * p.size + at, y);
  });
}

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads) softmax_columns_kernel(const Forward<T> p) {
  using F = Compute<T>;
  const int64_t column = pointwise_begin<V>();
  if (column >= p.outer * p.inner) return;
  const int64_t begin = column / p.inner * p.size * p.inner + column % p.inner;
  F largest[V], sum[V] = {};
#pragma unroll
  for (int k = 0; k < V; ++k) largest[k] = -static_cast<F>(__builtin_inf());
  for (int64_t i = 0; i < p.size; ++i) {
    const auto pack = tile::load<V>(p.x + begin + i * p.inner);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      largest[k] = tile::Maximum()(largest[k], tile::widen(pack.lanes[k]));
    }
  }
  for (int64_t i = 0; i < p.size; ++i) {
    const auto pack = tile::load<V>(p.x + begin + i * p.inner);
#pragma unroll
    for (int k = 0; k < V; ++k) sum[k] += tile::exp_of(tile::widen(pack.lanes[k]) - largest[k]);
  }
#pragma unroll
  for (int k = 0; k < V; ++k) sum[k] = p.log ? tile::log_of(sum[k]) : sum[k];
  for (int64_t i = 0; i < p.size; ++i) {
    const auto pack = tile::load<V>(p.x + begin + i * p.inner);
    F y[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const F value = tile::widen(pack.lanes[k]) - largest[k];
      y[k] = p.log ? value - sum[k] : tile::exp_of(value) / sum[k];
    }
    tile::store_narrow(p.y + begin + i * p.inner, y);
  }
}

template <class T>
struct Backward {
  int64_t outer, size, inner;
  bool log;
  const T *grad_y, *y;
  T* grad_x;
};

// What the sum is of, and what becomes of it.
template <class F>
__device__ __forceinline__ F term(bool log, F grad_y, F y) {
  return log ? grad_y : grad_y * y;
}
template <class F>
__device__ __forceinline__ F gradient(bool log, F grad_y, F y, F sum) {
  return log ? grad_y - tile::exp_of(y) * sum : y * (grad_y - sum);
}

template <class T, int V, int kTeam>
__global__ void __launch_bounds__(kRowThreads) softmax_backward_kernel(const Backward<T> p) {
  using F = Compute<T>;
  const int64_t row = row_of_team<kTeam>();
  if (row >= p.outer) return;  // a whole team
  const Row<T, V, kTeam> g(p.grad_y + row * p.size, p.size), y(p.y + row * p.size, p.size);
  F sum = 0;
  g.each_with(y, [&](const Pack<T, V>& grad, const Pack<T, V>& own, int64_t) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      sum += term(p.log, tile::widen(grad.lanes[k]), tile::widen(own.lanes[k]));
    }
  });
  sum = over_team<tile::Sum, kTeam>(sum);
  g.each_with(y, [&](const Pack<T, V>& grad, const Pack<T, V>& own, int64_t at) {
    F grad_x[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      grad_x[k] = gradient(p.log, tile::widen(grad.lanes[k]), tile::widen(own.lanes[k]), sum);
    }
    tile::store_narrow(p.grad_x + row * p.size + at, grad_x);
  });
}

template <class T, int V>
__global__ void __launch_bounds__(kPointwiseThreads)
    softmax_columns_backward_kernel(const Backward<T> p) {
  using F = Compute<T>;
  const int64_t column = pointwise_begin<V>();
  if (column >= p.outer * p.inner) return;
  const int64_t begin = column / p.inner * p.size * p.inner + column % p.inner;
  F sum[V] = {};
  for (int64_t i = 0; i < p.size; ++i) {
    const int64_t at = begin + i * p.inner;
    const auto grad = tile::load<V>(p.grad_y + at), own = tile::load<V>(p.y + at);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      sum[k] += term(p.log, tile::widen(grad.lanes[k]), tile::widen(own.lanes[k]));
    }
  }
  for (int64_t i = 0; i < p.size; ++i) {
    const int64_t at = begin + i * p.inner;
    const auto grad = tile::load<V>(p.grad_y + at), own = tile::load<V>(p.y + at);
    F grad_x[V];
#pragma unroll
    for (int k = 0; k < V; ++k) {
      grad_x[k] = gradient(p.log, tile::widen(grad.lanes[k]), tile::widen(own.lanes[k]), sum[k]);
    }
    tile::store_narrow(p.grad_x + at, grad_x);
  }
}

template <class T>
void forward(const Softmax& s, const Queue& queue) {
  const Forward<T> p{
      s.outer, s.size, s.inner, s.log, static_cast<const T*>(s.x), static_cast<T*>(s.y)};
  if (s.inner == 1) {
    return for_rows<T>(s.size, rows_in_vectors<T>(s.size, p.x, p.y), [&](auto V, auto team) {
      launch_rows<T>("softmax", softmax_kernel<T, V(), team()>, s.outer, team(), queue, p);
    });
  }
  const int64_t columns = s.outer * s.inner;
  constexpr int V = kVector<T>;
  rows_in_vectors<T>(s.inner, p.x, p.y)
      ? launch_pointwise("softmax", softmax_columns_kernel<T, V>, p, columns, V, queue)
      : launch_pointwise("softmax", softmax_columns_kernel<T, 1>, p, columns, 1, queue);
}

template <class T>
void backward(const SoftmaxBackward& s, const Queue& queue) {
  const char* op = "softmax_backward";
  const Backward<T> p{s.outer,
                      s.size,
                      s.inner,
                      s.log,
                      static_cast<const T*>(s.grad_y),
                      static_cast<const T*>(s.y),
                      static_cast<T*>(s.grad_x)};
  if (s.inner == 1) {
    const bool vectors = rows_in_vectors<T>(s.size, p.grad_y, p.y, p.grad_x);
    return for_rows<T>(s.size, vectors, [&](auto V, auto team) {
      launch_rows<T>(op, softmax_backward_kernel<T, V(), team()>, s.outer, team(), queue, p);
    });
  }
  const int64_t columns = s.outer * s.inner;
  constexpr int V = kVector<T>;
  rows_in_vectors<T>(s.inner, p.grad_y, p.y, p.grad_x)
      ? launch_pointwise(op, softmax_columns_backward_kernel<T, V>, p, columns, V, queue)
      : launch_pointwise(op, softmax_columns_backward_kernel<T, 1>, p, columns, 1, queue);
}

}  // namespace

void launch(const Softmax& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { forward<decltype(zero)>(p, queue); });
}

void launch(const SoftmaxBackward& p, const Queue& queue) {
  for_dtype(p.dtype, [&](auto zero) { backward<decltype(zero)>(p, queue); });
}

}  // namespace torchext
