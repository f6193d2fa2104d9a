// avg_pool2d and adaptive_avg_pool2d: y[o] = sum over the window of x / divisor, summed in float
// (double for float64). Backward: grad_x[i] = sum over the outputs that read i of grad_y[o] /
// divisor.
#pragma once

#include "pool2d.h"

namespace torchext {

struct AvgPool2d : Pool2d {
  bool adaptive;             // windows from adaptive_window(), h and w unused
  bool count_include_pad;    // padding counts towards the divisor
  int64_t divisor_override;  // 0: none
  const void* x;
  void* y;
  Strides x_stride, y_stride;
};

struct AvgPool2dBackward : Pool2d {
  bool adaptive;
  bool count_include_pad;
  int64_t divisor_override;
  const void* grad_y;
  void* grad_x;
  Strides grad_y_stride, grad_x_stride;
};

// The inputs along one axis that output o averages, and how many its divisor counts.
template <class I>
struct SpanOf {
  I begin, end, counted;
};
using Span = SpanOf<int64_t>;

template <class I, class D>
PLAIN SpanOf<I> averaged(const WindowOf<I, D>& window, bool adaptive, bool count_include_pad, I o,
                         D size, D outputs) {
  if (adaptive) {
    const RangeOf<I> range = adaptive_window(o, size, outputs);
    return {range.begin, range.end, range.end - range.begin};
  }
  // Padding on the right counts only up to `padding`: a ceil_mode window may reach further.
  const I start = o * window.stride - window.padding;
  const I padded_end = min_of(start + window.kernel, size + window.padding);
  const I begin = max_of(start, 0), end = min_of(padded_end, I(size));
  return {begin, end, count_include_pad ? padded_end - start : end - begin};
}

template <class P>
PLAIN int64_t divisor_of(const P& p, const Span& rows, const Span& columns) {
  return p.divisor_override != 0 ? p.divisor_override : rows.counted * columns.counted;
}

void launch(const AvgPool2d& p, const Queue& queue);
void launch(const AvgPool2dBackward& p, const Queue& queue);

}  // namespace torchext
