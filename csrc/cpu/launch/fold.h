// A batch norm by running statistics as a scale and a shift of the convolution's sums: computed in
// double, each rounded once.
#pragma once

#include <cmath>

#include "../../op/conv_bn_act.h"
#include "scratch.h"

namespace torchext::cpu {

class Folded {
 public:
  Folded(DType dtype, int64_t channels, const RunningNorm& norm)
      : channels_(channels), memory_(dtype, 2, channels), dtype_(dtype) {
    dtype == DType::f64 ? fold<double>(norm) : fold<float>(norm);
  }
  const void* scale() const { return memory_.get(); }
  const void* shift() const {
    return static_cast<const char*>(memory_.get()) + channels_ * compute_size(dtype_);
  }

 private:
  template <class F>
  void fold(const RunningNorm& norm) {
    const F *mean = static_cast<const F*>(norm.mean), *var = static_cast<const F*>(norm.var);
    const F *gamma = static_cast<const F*>(norm.gamma), *beta = static_cast<const F*>(norm.beta);
    const F* bias = static_cast<const F*>(norm.bias);
    F *scale = static_cast<F*>(memory_.get()), *shift = scale + channels_;
    for (int64_t c = 0; c < channels_; ++c) {
      const double s = (gamma ? gamma[c] : 1.0) / std::sqrt(var[c] + norm.eps);
      scale[c] = static_cast<F>(s);
      shift[c] = static_cast<F>((beta ? beta[c] : 0.0) + ((bias ? bias[c] : 0.0) - mean[c]) * s);
    }
  }

  int64_t channels_;
  Scratch memory_;
  DType dtype_;
};

}  // namespace torchext::cpu
