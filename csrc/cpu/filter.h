// Depthwise filters over rows of outputs, for kernels: included once per ISA. A few neighbouring
// outputs share each tap's weights.
#pragma once

#include "activation.h"
#include "depthwise.h"
#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// N channels of U neighbouring outputs.
template <int N, int U, class T>
INLINE void filter(const Depthwise& p, const Compute<T>* x, int64_t c, const T* bias,
                   const T* residual, T* y) {
  using F = Compute<T>;
  using V = Vec<F, N>;
  V sum[U] = {};
  for (int64_t t = 0; t < p.taps; ++t) {
    const V w = load<N>(static_cast<const F*>(p.w) + p.w_tap[t] + c);
    const F* tap = x + p.x_tap[t] + c;
    for (int u = 0; u < U; ++u) sum[u] += load<N>(tap + u * p.x_column) * w;
  }
  for (int u = 0; u < U; ++u) {
    if (p.scale != nullptr) {
      sum[u] = sum[u] * load<N>(static_cast<const F*>(p.scale) + c) +
               load<N>(static_cast<const F*>(p.shift) + c);
    }
    if (bias != nullptr) sum[u] += load<N>(bias + c);
    if (residual != nullptr) {
      sum[u] += load<N>(residual + u * p.residual_stride.w + c * p.residual_stride.c);
    }
    store<N>(y + u * p.y_stride.w + c * p.y_stride.c, activate(p.activation, sum[u]));
  }
}

template <int N, int U, class T>
INLINE void filter_channels(const Depthwise& p, const Compute<T>* x, int64_t c, const T* bias,
                            const T* residual, T* y) {
  for (; c + N <= p.C; c += N) filter<N, U>(p, x, c, bias, residual, y);
  if constexpr (N > 1) filter_channels<N / 2, U>(p, x, c, bias, residual, y);
}

template <int U, class T>
INLINE void filter_outputs(const Depthwise& p, const Compute<T>* x, const T* bias,
                           const T* residual, T* y) {
  const bool adjacent = p.y_stride.c == 1 && (residual == nullptr || p.residual_stride.c == 1);
  if (adjacent) {
    filter_channels<kLanes<T>, U>(p, x, 0, bias, residual, y);
  } else {
    for (int64_t c = 0; c < p.C; ++c) filter<1, U>(p, x, c, bias, residual, y);
  }
}

// Neighbouring outputs of a row: x, residual and y are the first one's.
template <class T>
INLINE void filter_line(const Depthwise& p, int64_t count, const Compute<T>* x, const T* residual,
                        T* y) {
  constexpr int U = 4;
  const T* bias = static_cast<const T*>(p.bias);
  const int64_t residual_step = residual != nullptr ? p.residual_stride.w : 0;
  int64_t k = 0;
  for (; k + U <= count; k += U) {
    filter_outputs<U>(p, x + k * p.x_column, bias, residual + k * residual_step,
                      y + k * p.y_stride.w);
  }
  for (; k < count; ++k) {
    filter_outputs<1>(p, x + k * p.x_column, bias, residual + k * residual_step,
                      y + k * p.y_stride.w);
  }
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
