// A batch norm by running statistics as a scale and a shift of the convolution's sums: computed in
// double, each rounded once.
#pragma once

#include "../op/conv_bn_act.h"
#include "pointwise.cuh"
#include "tile/queue.cuh"

namespace torchext {

template <class F>
struct Fold {
  int64_t channels;
  const F *mean, *var, *gamma, *beta, *bias;
  double eps;
  F *scale, *shift;
};

template <class F>
__global__ void __launch_bounds__(kPointwiseThreads) fold_kernel(const Fold<F> p) {
  const int64_t c = pointwise_begin<1>();
  if (c >= p.channels) return;
  const auto number = [c](const F* of, double none) {
    return of ? static_cast<double>(of[c]) : none;
  };
  const double scale = number(p.gamma, 1) / sqrt(static_cast<double>(p.var[c]) + p.eps);
  p.scale[c] = static_cast<F>(scale);
  p.shift[c] = static_cast<F>(number(p.beta, 0) +
                              (number(p.bias, 0) - static_cast<double>(p.mean[c])) * scale);
}

// Sets the convolution's scale and shift.
template <class F>
void fold_norm(const char* op, Conv2d& conv, const RunningNorm& norm, const Queue& queue) {
  const auto in = [](const void* numbers) { return static_cast<const F*>(numbers); };
  F* scale = tile::scratch<F>(queue, 2 * conv.O);
  const Fold<F> fold{conv.O,        in(norm.mean), in(norm.var), in(norm.gamma), in(norm.beta),
                     in(norm.bias), norm.eps,      scale,        scale + conv.O};
  launch_pointwise(op, fold_kernel<F>, fold, conv.O, 1, queue);
  conv.scale = fold.scale, conv.shift = fold.shift;
}

inline void fold_norm(const char* op, Conv2d& conv, const RunningNorm& norm, const Queue& queue) {
  conv.dtype == DType::f64 ? fold_norm<double>(op, conv, norm, queue)
                           : fold_norm<float>(op, conv, norm, queue);
}

}  // namespace torchext
