// What every 2-d pooling op shares: its geometry, and which taps and outputs meet.
// Plain data and index arithmetic: used by host code, CPU kernels and CUDA kernels alike.
#pragma once

#include "../common/plain.h"

namespace torchext {

// The sliding window along one axis: tap t of output o reads input o * stride - padding + t *
// dilation.
struct Window {
  int64_t kernel, stride, padding, dilation;
};

struct Pool2d {
  DType dtype;
  int64_t N, C, H, W, OH, OW;
  Window h, w;
};

// The taps of output o that lie inside an axis of `size`; empty if the whole window is padding.
PLAIN Range taps_inside(const Window& window, int64_t o, int64_t size) {
  const int64_t start = o * window.stride - window.padding;
  const int64_t begin = start >= 0 ? 0 : ceil_div(-start, window.dilation);
  const int64_t end =
      start >= size ? 0 : min_of(window.kernel, ceil_div(size - start, window.dilation));
  return {begin, max_of(begin, end)};
}

// The outputs whose window spans input i. With dilation, only those that tap_at() finds touch it.
PLAIN Range outputs_over(const Window& window, int64_t i, int64_t outputs) {
  const int64_t last_tap = (window.kernel - 1) * window.dilation;
  const int64_t begin =
      i + window.padding < last_tap ? 0 : ceil_div(i + window.padding - last_tap, window.stride);
  return {begin, min_of(outputs, (i + window.padding) / window.stride + 1)};
}

// The tap with which output o reads input i, or -1 if it steps over it.
PLAIN int64_t tap_at(const Window& window, int64_t i, int64_t o) {
  const int64_t distance = i + window.padding - o * window.stride;
  return distance % window.dilation == 0 ? distance / window.dilation : -1;
}

// Adaptive pooling splits `size` inputs into `outputs` windows that may overlap by one.
PLAIN Range adaptive_window(int64_t o, int64_t size, int64_t outputs) {
  return {o * size / outputs, ceil_div((o + 1) * size, outputs)};
}

PLAIN Range adaptive_outputs_over(int64_t i, int64_t size, int64_t outputs) {
  return {i * outputs / size, min_of(outputs, ceil_div((i + 1) * outputs, size))};
}

}  // namespace torchext
