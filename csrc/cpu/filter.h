// Depthwise filters over rows of outputs, and those of narrow groups of G channels, for kernels:
// included once per ISA. A few neighbouring outputs share each tap's weights.
#pragma once

#include <utility>

#include "activation.h"
#include "depthwise.h"
#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

// Where taps lie in an image, seen from an output's first tap, and in the weights.
struct Taps {
  int64_t count;
  const int64_t *x, *w;
  int64_t threes;  // as in Filter
};

template <class V, int U>
using Sums = V[U];

// Each lane has lane K of its group of G lanes.
template <int G, int K, class V, int... I>
INLINE V spread(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I / G * G + K)...);
}

// The first channel that sums of N channels from c on need.
template <int N, int G>
INLINE int64_t first_of_groups(int64_t c) {
  return N > G ? c : c / G * G;
}

// Of N channels, channel K of each one's group; `first` is the first channel of the groups.
template <int N, int G, int K, class X>
INLINE auto load_of_group(const X* first) {
  if constexpr (N > G) {
    return spread<G, K>(load<N>(first), std::make_integer_sequence<int, N>());
  } else {
    const auto one = load<1>(first + K);
    return Vec<Compute<X>, N>{} + one[0];
  }
}

// N channels of U neighbouring outputs: sums over all taps. X: what the image is stored in.
template <int N, int U, int G, class F, class X>
INLINE void add_up_taps(const Depthwise& p, const Taps& taps, const X* x, const F* w,
                        Sums<Vec<F, N>, U>& sum) {
  using V = Vec<F, N>;
  [[maybe_unused]] const auto rows_of_three = [&](auto step) ALWAYS_INLINE {
    constexpr int S = decltype(step)::value;
    for (int64_t t = 0; t < taps.count; t += 3) {
      const X* tap = x + taps.x[t];
      unrolled<G>([&](auto k) ALWAYS_INLINE {
        constexpr int K = decltype(k)::value;
        V in[S * (U - 1) + 3];
        unrolled<S*(U - 1) + 3>([&](auto i) ALWAYS_INLINE {
          in[i.value] = load_of_group<N, G, K>(tap + i.value * taps.threes);
        });
        unrolled<3>([&](auto j) ALWAYS_INLINE {
          const V weight = load<N>(w + taps.w[t + j.value] + K * p.C);
          unrolled<U>([&](auto u)
                          ALWAYS_INLINE { sum[u.value] += in[S * u.value + j.value] * weight; });
        });
      });
    }
  };
  if constexpr (U > 1) {  // one output shares nothing
    if (taps.threes != 0) {
      return p.x_column == taps.threes ? rows_of_three(Constant<1>{})
                                       : rows_of_three(Constant<2>{});
    }
  }
  constexpr int P = U == 1 && G > 1 ? 4 : 1;  // sums side by side: one would wait for itself
  V parts[P][U] = {};                         // the first is `sum`
  for (int64_t t = 0; t < taps.count; ++t) {
    const X* tap = x + taps.x[t];
    unrolled<G>([&](auto k) ALWAYS_INLINE {
      constexpr int K = decltype(k)::value;
      const V weight = load<N>(w + taps.w[t] + K * p.C);
      unrolled<U>([&](auto u) ALWAYS_INLINE {
        V& to = K % P == 0 ? sum[u.value] : parts[K % P][u.value];
        to += load_of_group<N, G, K>(tap + u.value * p.x_column) * weight;
      });
    });
  }
  if constexpr (P > 1) {
    unrolled<P - 1>([&](auto i) ALWAYS_INLINE {
      unrolled<U>([&](auto u) ALWAYS_INLINE { sum[u.value] += parts[i.value + 1][u.value]; });
    });
  }
}

template <int N, int U, int G, class T, class X>
INLINE void filter(const Depthwise& p, const Taps& taps, const X* x, int64_t c, const T* bias,
                   const T* residual, T* y) {
  using F = Compute<T>;
  using V = Vec<F, N>;
  Sums<V, U> sum = {};
  add_up_taps<N, U, G>(p, taps, x + first_of_groups<N, G>(c), static_cast<const F*>(p.w) + c, sum);
  if (p.scale != nullptr) {
    const V scale = load<N>(static_cast<const F*>(p.scale) + c);
    const V shift = load<N>(static_cast<const F*>(p.shift) + c);
    unrolled<U>([&](auto u) ALWAYS_INLINE { sum[u.value] = sum[u.value] * scale + shift; });
  }
  if (bias != nullptr) {
    const V b = load<N>(bias + c);
    unrolled<U>([&](auto u) ALWAYS_INLINE { sum[u.value] += b; });
  }
  if (residual != nullptr) {
    const T* from = residual + c * p.residual_stride.c;
    unrolled<U>([&](auto u) ALWAYS_INLINE {
      sum[u.value] += load<N>(from + u.value * p.residual_stride.w);
    });
  }
  T* to = y + c * p.y_stride.c;
  const bool relu6 = p.activation == Activation::relu6;
  if (relu6 || p.activation == Activation::relu) {
    unrolled<U>([&](auto u) ALWAYS_INLINE { sum[u.value] = at_least(sum[u.value], 0); });
    if (relu6) unrolled<U>([&](auto u) ALWAYS_INLINE { sum[u.value] = at_most(sum[u.value], 6); });
  } else if (p.activation == Activation::hardswish) {
    unrolled<U>([&](auto u) ALWAYS_INLINE { sum[u.value] = hardswish_of(sum[u.value]); });
  } else if (p.activation != Activation::none) {  // too long for more than one of them
    F sums[U * N];
    unrolled<U>([&](auto u) ALWAYS_INLINE { store<N>(sums + u.value * N, sum[u.value]); });
    for (int u = 0; u < U; ++u) {
      store<N>(to + u * p.y_stride.w, activate(p.activation, load<N>(sums + u * N)));
    }
    return;
  }
  unrolled<U>([&](auto u) ALWAYS_INLINE { store<N>(to + u.value * p.y_stride.w, sum[u.value]); });
}

template <int N, int U, int G, class T, class X>
INLINE void filter_channels(const Depthwise& p, const Taps& taps, const X* x, int64_t c,
                            const T* bias, const T* residual, T* y) {
  for (; c + N <= p.C; c += N) filter<N, U, G>(p, taps, x, c, bias, residual, y);
  if constexpr (N > G) filter_channels<N / 2, U, G>(p, taps, x, c, bias, residual, y);
}

template <int U, int G, class T, class X>
INLINE void filter_outputs(const Depthwise& p, const Taps& taps, const X* x, const T* bias,
                           const T* residual, T* y) {
  const bool adjacent = p.y_stride.c == 1 && (residual == nullptr || p.residual_stride.c == 1);
  if (adjacent) {
    filter_channels<kLanes<T>, U, G>(p, taps, x, 0, bias, residual, y);
  } else {
    for (int64_t c = 0; c < p.C; ++c) filter<1, U, G>(p, taps, x, c, bias, residual, y);
  }
}

// Neighbouring outputs of a row: x, residual and y are the first one's.
template <int G, class T, class X>
static void filter_line(const Depthwise& p, const Taps& taps, int64_t count, const X* x,
                        const T* residual, T* y) {
  constexpr int U = 4;
  const T* bias = static_cast<const T*>(p.bias);
  const int64_t residual_step = residual != nullptr ? p.residual_stride.w : 0;
  int64_t k = 0;
  for (; k + U <= count; k += U) {
    filter_outputs<U, G>(p, taps, x + k * p.x_column, bias, residual + k * residual_step,
                         y + k * p.y_stride.w);
  }
  for (; k < count; ++k) {
    filter_outputs<1, G>(p, taps, x + k * p.x_column, bias, residual + k * residual_step,
                         y + k * p.y_stride.w);
  }
}

// Those taps, of at most kMostBorderTaps, that lie inside the image along one axis.
struct InsideTaps {
  int64_t count = 0, first = 0, last = 0;  // the range of their columns
  int64_t x[kMostBorderTaps], w[kMostBorderTaps], column[kMostBorderTaps];

  void add(int64_t x_tap, int64_t w_tap, int64_t column_of_tap) {
    first = count == 0 ? column_of_tap : min_of(first, column_of_tap);
    last = count == 0 ? column_of_tap : max_of(last, column_of_tap);
    x[count] = x_tap, w[count] = w_tap, column[count] = column_of_tap;
    ++count;
  }
  Taps taps(int64_t threes) const { return {count, x, w, threes}; }
};

// function(taps, begin, end) for runs of outputs of row oh that have the same taps inside the
// image.
template <class Function>
INLINE void for_each_run(const Filter& p, int64_t oh, Range columns, Function function) {
  if (p.tap_h == nullptr) {
    return function(Taps{p.taps, p.x_tap, p.w_tap, p.threes}, columns.begin, columns.end);
  }
  InsideTaps rows;
  for (int64_t t = 0; t < p.taps; ++t) {
    const int64_t h = oh * p.step_h + p.tap_h[t];
    if (h >= 0 && h < p.H) rows.add(p.x_tap[t], p.w_tap[t], p.tap_w[t]);
  }
  // Outputs from `left` to `right` have all of these inside.
  const auto clamped = [&](int64_t column) {
    const int64_t rounded = ceil_div(max_of(column, int64_t{0}), p.step_w);
    return min_of(columns.end, max_of(columns.begin, rounded));
  };
  const int64_t left = clamped(-rows.first), right = max_of(left, clamped(p.W - rows.last));
  const auto edge = [&](int64_t ow) {
    InsideTaps inside;
    for (int64_t t = 0; t < rows.count; ++t) {
      const int64_t w = ow * p.step_w + rows.column[t];
      if (w >= 0 && w < p.W) inside.add(rows.x[t], rows.w[t], 0);
    }
    function(inside.taps(0), ow, ow + 1);
  };
  for (int64_t ow = columns.begin; ow < left; ++ow) edge(ow);
  function(rows.taps(p.threes), left, right);
  for (int64_t ow = right; ow < columns.end; ++ow) edge(ow);
}

// Outputs `columns` of row oh; x, residual and y are the first one's.
template <int G, class T, class X>
INLINE void filter_row(const Depthwise& p, int64_t oh, Range columns, const X* x, const T* residual,
                       T* y) {
  for_each_run(p, oh, columns, [&](const Taps& taps, int64_t begin, int64_t end) {
    const int64_t k = begin - columns.begin;
    filter_line<G>(p, taps, end - begin, x + k * p.x_column,
                   residual != nullptr ? residual + k * p.residual_stride.w : nullptr,
                   y + k * p.y_stride.w);
  });
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
