// What every 2-d pooling op shares: its geometry, and which taps and outputs meet.
// Plain data and index arithmetic: used by host code, CPU kernels and CUDA kernels alike.
#pragma once

#include "../common/plain.h"

namespace torchext {

// The sliding window along one axis: output o reads, with tap t, input
// o * stride - padding + t * dilation. D is what indices are divided by: CUDA kernels divide by
// multiplying.
template <class I, class D = I>
struct WindowOf {
  I kernel;
  D stride;
  I padding;
  D dilation;
};
using Window = WindowOf<int64_t>;

struct Pool2d {
  DType dtype;
  int64_t N, C, H, W, OH, OW;
  Window h, w;
};

// The taps of output o that lie inside an axis of `size`; empty if the whole window is padding.
template <class I, class D>
PLAIN RangeOf<I> taps_inside(const WindowOf<I, D>& window, I o, I size) {
  const I start = o * window.stride - window.padding;
  const I last = start + (window.kernel - 1) * window.dilation;
  const I begin = start >= 0 ? 0 : ceil_div(-start, window.dilation);
  const I end = last < size    ? window.kernel
                : start < size ? ceil_div(size - start, window.dilation)
                               : 0;
  return {begin, max_of(begin, end)};
}

// The outputs whose window spans input i. With dilation, only those that tap_at() finds touch it.
template <class I, class D>
PLAIN RangeOf<I> outputs_over(const WindowOf<I, D>& window, I i, I outputs) {
  const I last_tap = (window.kernel - 1) * window.dilation;
  const I at = i + window.padding;
  const I begin = at < last_tap ? 0 : ceil_div(at - last_tap, window.stride);
  return {begin, min_of(outputs, at / window.stride + 1)};
}

// The tap with which output o reads input i, or -1 if it steps over it.
template <class I, class D>
PLAIN I tap_at(const WindowOf<I, D>& window, I i, I o) {
  const I distance = i + window.padding - o * window.stride;
  const I tap = distance / window.dilation;
  return tap * window.dilation == distance ? tap : -1;
}

// Adaptive pooling splits `size` inputs into `outputs` windows that may overlap by one.
template <class I, class D>
PLAIN RangeOf<I> adaptive_window(I o, D size, D outputs) {
  return {o * size / outputs, ceil_div((o + 1) * size, outputs)};
}

template <class I, class D>
PLAIN RangeOf<I> adaptive_outputs_over(I i, D size, D outputs) {
  return {i * outputs / size, min_of(I(outputs), ceil_div((i + 1) * outputs, size))};
}

}  // namespace torchext
