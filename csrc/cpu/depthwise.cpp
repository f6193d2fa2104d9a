// Depthwise convolution, and that of narrow groups, compiled once per ISA.
#include "depthwise.h"

#include "filter.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <int G, class T, class X>
static void filter_rows(const Depthwise& p, int64_t begin, int64_t end) {
  const Strides &ys = p.y_stride, &rs = p.residual_stride;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t n = index / p.OH, oh = index % p.OH;
    const X* x = static_cast<const X*>(p.x) + (n * p.x_image + oh * p.x_row);
    const T* residual =
        p.residual ? static_cast<const T*>(p.residual) + (n * rs.n + oh * rs.h) : nullptr;
    filter_row<G>(p, oh, {0, p.OW}, x, residual, static_cast<T*>(p.y) + (n * ys.n + oh * ys.h));
  }
}

template <int G, class T>
static void filter_stored_or_laid_out(const Depthwise& p, int64_t begin, int64_t end) {
  p.x_stored ? filter_rows<G, T, T>(p, begin, end) : filter_rows<G, T, Compute<T>>(p, begin, end);
}

// function<G, T>, by the group.
#define FOR_EACH_GROUP(function, T, p, ...)  \
  switch ((p).group) {                       \
    case 1:                                  \
      return function<1, T>(p, __VA_ARGS__); \
    case 4:                                  \
      return function<4, T>(p, __VA_ARGS__); \
    case 8:                                  \
      return function<8, T>(p, __VA_ARGS__); \
  }

template <class T>
static void filter_pieces(const Depthwise& p, int64_t begin, int64_t end) {
  FOR_EACH_GROUP(filter_stored_or_laid_out, T, p, begin, end)
}

// Some taps of N channels, for channel K of their groups, summed along a run of outputs.
template <int Count, int N, int G, int K, class F>
INLINE void correlate(const DepthwiseWeight& p, const Taps& taps, int64_t first, int64_t count,
                      const F* grad, const F* x, F* sums) {
  using V = Vec<F, N>;
  V sum[Count] = {};
  for (int64_t k = 0; k < count; ++k) {
    const V g = load<N>(grad + k * p.grad_column);
#pragma GCC unroll 9
    for (int t = 0; t < Count; ++t) {
      sum[t] += g * load_of_group<N, G, K>(x + taps.x[first + t] + k * p.x_column);
    }
  }
  for (int t = 0; t < Count; ++t) {
    F* to = sums + taps.w[first + t] + K * p.C;
    store<N>(to, load<N>(to) + sum[t]);
  }
}

template <int N, int G, class F>
static void correlate_channels(const DepthwiseWeight& p, const Taps& taps, int64_t count, int64_t c,
                               const F* grad, const F* x, F* sums) {
  for (; c + N <= p.C; c += N) {
    const F* from = x + first_of_groups<N, G>(c);
    unrolled<G>([&](auto k) ALWAYS_INLINE {
      constexpr int K = decltype(k)::value;
      int64_t t = 0;
      for (; t + 9 <= taps.count; t += 9) {
        correlate<9, N, G, K>(p, taps, t, count, grad + c, from, sums + c);
      }
      for (; t + 3 <= taps.count; t += 3) {
        correlate<3, N, G, K>(p, taps, t, count, grad + c, from, sums + c);
      }
      for (; t < taps.count; ++t) {
        correlate<1, N, G, K>(p, taps, t, count, grad + c, from, sums + c);
      }
    });
  }
  if constexpr (N > G) correlate_channels<N / 2, G>(p, taps, count, c, grad, x, sums);
}

template <int G, class F>
static void correlate_blocks(const DepthwiseWeight& p, int64_t begin, int64_t end) {
  const int64_t lines = p.N * p.OH;
  for (int64_t block = begin; block < end; ++block) {
    F* sums = static_cast<F*>(p.sums) + block * p.taps * G * p.C;
    for (int64_t k = 0; k < p.taps * G * p.C; ++k) sums[k] = 0;
    const int64_t stop = lines * (block + 1) / p.blocks;
    for (int64_t line = lines * block / p.blocks; line < stop; ++line) {
      const int64_t n = line / p.OH, oh = line % p.OH;
      const F* grad = static_cast<const F*>(p.grad) + (n * p.grad_image + oh * p.grad_row);
      const F* x = static_cast<const F*>(p.x) + (n * p.x_image + oh * p.x_row);
      for_each_run(p, oh, {0, p.OW}, [&](const Taps& taps, int64_t first, int64_t last) {
        correlate_channels<kLanes<F>, G>(p, taps, last - first, 0, grad + first * p.grad_column,
                                         x + first * p.x_column, sums);
      });
    }
  }
}

template <class F>
static void correlate_pieces(const DepthwiseWeight& p, int64_t begin, int64_t end) {
  FOR_EACH_GROUP(correlate_blocks, F, p, begin, end)
}

}  // namespace

void run(const Depthwise& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(filter_pieces, p, begin, end)
}

void run(const DepthwiseWeight& p, int64_t begin, int64_t end) {
  p.dtype == DType::f64 ? correlate_pieces<double>(p, begin, end)
                        : correlate_pieces<float>(p, begin, end);
}

}  // namespace torchext::cpu::TORCHEXT_ISA
