// The arguments of a batch norm, checked, as kernels of x's type read them: for ops with one
// inside.
#pragma once

#include "../common/dense.h"
#include "conv_bn_act.h"

namespace torchext {

struct NormNames {
  const char *gamma, *beta, *mean, *var;
};

struct NormArguments {
  std::optional<Tensor> gamma, beta, mean, var;

  NormArguments(const char* op, const NormNames& names, const Tensor& x, int64_t channels,
                const std::optional<Tensor>& gamma, const std::optional<Tensor>& beta,
                const std::optional<Tensor>& mean, const std::optional<Tensor>& var)
      : gamma(weight_for(op, names.gamma, x, gamma, channels)),
        beta(weight_for(op, names.beta, x, beta, channels)),
        mean(weight_for(op, names.mean, x, mean, channels)),
        var(weight_for(op, names.var, x, var, channels)) {}

  RunningNorm running(double eps, const void* bias = nullptr) const {
    return {memory_of(mean), memory_of(var), memory_of(gamma), memory_of(beta), bias, eps};
  }
};

}  // namespace torchext
