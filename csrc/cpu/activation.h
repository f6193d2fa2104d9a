// Activations of vectors, for epilogues and for the activation op itself.
#pragma once

#include "../common/activation.h"
#include "vec.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

template <class V>
INLINE V activate(Activation activation, V v) {
  switch (activation) {
    case Activation::relu:
      return v < 0 ? V{} : v;  // NaN and -0 stay
    case Activation::relu6: {
      const V positive = v < 0 ? V{} : v;
      return positive > 6 ? V{} + 6 : positive;
    }
    default:
      return v;
  }
}

// The derivative of an activation, told from its result; for those where that can be done.
template <class V>
INLINE V derivative_from_result(Activation activation, V y) {
  switch (activation) {
    case Activation::relu:
      return y <= 0 ? V{} : V{} + 1;  // 1 at NaN, as in torch
    case Activation::relu6:
      return (y <= 0) | (y >= 6) ? V{} : V{} + 1;
    default:
      return V{} + 1;
  }
}

// grad times that derivative; where it is 0, 0 even for NaN and infinity.
template <class V>
INLINE V gated(Activation activation, V grad, V y) {
  const V derivative = derivative_from_result(activation, y);
  return derivative == 0 ? V{} : grad * derivative;
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
