// Depthwise convolution, compiled once per ISA.
#include "depthwise.h"

#include "filter.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class T>
static void filter_rows(const Depthwise& p, int64_t begin, int64_t end) {
  const Strides &ys = p.y_stride, &rs = p.residual_stride;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t n = index / p.OH, oh = index % p.OH;
    const Compute<T>* x = static_cast<const Compute<T>*>(p.x) + (n * p.x_image + oh * p.x_row);
    const T* residual =
        p.residual ? static_cast<const T*>(p.residual) + (n * rs.n + oh * rs.h) : nullptr;
    filter_row(p, oh, {0, p.OW}, x, residual, static_cast<T*>(p.y) + (n * ys.n + oh * ys.h));
  }
}

// Some taps of N channels, summed along each row of outputs and then over the rows.
template <int Taps, int N, class F>
INLINE void correlate(const DepthwiseWeight& p, int64_t c, int64_t first) {
  using V = Vec<F, N>;
  V total[Taps] = {};
  for (int64_t line = 0; line < p.N * p.OH; ++line) {
    const int64_t n = line / p.OH, oh = line % p.OH;
    const F* grad = static_cast<const F*>(p.grad) + (n * p.grad_image + oh * p.grad_row + c);
    const F* x = static_cast<const F*>(p.x) + (n * p.x_image + oh * p.x_row + c);
    V sum[Taps] = {};
    for (int64_t ow = 0; ow < p.OW; ++ow) {
      const V g = load<N>(grad + ow * p.grad_column);
#pragma GCC unroll 9
      for (int t = 0; t < Taps; ++t) {
        sum[t] += g * load<N>(x + p.x_tap[first + t] + ow * p.x_column);
      }
    }
    for (int t = 0; t < Taps; ++t) total[t] += sum[t];
  }
  for (int t = 0; t < Taps; ++t) {
    store<N>(static_cast<F*>(p.sums) + (first + t) * p.C + c, total[t]);
  }
}

template <int N, class F>
INLINE void correlate_channels(const DepthwiseWeight& p, int64_t c, int64_t end) {
  for (; c + N <= end; c += N) {
    int64_t t = 0;
    for (; t + 9 <= p.taps; t += 9) correlate<9, N, F>(p, c, t);
    for (; t + 5 <= p.taps; t += 5) correlate<5, N, F>(p, c, t);
    for (; t < p.taps; ++t) correlate<1, N, F>(p, c, t);
  }
  if constexpr (N > 1) correlate_channels<N / 2, F>(p, c, end);
}

template <class T>
static void correlate_blocks(const DepthwiseWeight& p, int64_t begin, int64_t end) {
  const int64_t block = panel_columns(p.dtype);
  correlate_channels<kLanes<T>, Compute<T>>(p, begin * block, min_of(p.C, end * block));
}

}  // namespace

void run(const Depthwise& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(filter_rows, p, begin, end)
}

void run(const DepthwiseWeight& p, int64_t begin, int64_t end) {
  FOR_EACH_DTYPE(correlate_blocks, p, begin, end)
}

}  // namespace torchext::cpu::TORCHEXT_ISA
