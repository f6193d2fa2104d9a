// The activations that epilogues fuse, by number: torchext/ops/_activation.py has the same list.
#pragma once

#include <stdint.h>

namespace torchext {

enum class Activation : int32_t {
  none,
  relu,
  relu6,
  leaky_relu,
  elu,
  silu,
  gelu,
  gelu_tanh,
  sigmoid,
  tanh,
  hardswish,
  hardsigmoid,
  step,
};
constexpr int32_t kActivations = 13;

}  // namespace torchext
