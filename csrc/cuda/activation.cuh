// Activations and their derivatives, as csrc/cpu/activation.h has them.
#pragma once

#include "../common/activation.h"
#include "tile/math.cuh"

namespace torchext {

template <class F>
struct ActivationConstants {
  static constexpr F kLeak = F(0.01);  // leaky_relu's slope below 0
  static constexpr F kRootHalf = F(0.70710678118654752);
  static constexpr F kRootTwoOverPi = F(0.79788456080286536);
  static constexpr F kCubic = F(0.044715);  // of gelu_tanh
};

template <class F>
__device__ __forceinline__ F relu6_of(F x) {
  x = x < 0 ? F(0) : x;  // NaN stays
  return x > 6 ? F(6) : x;
}

template <class F>
__device__ __forceinline__ F gelu_tanh_of(F x) {
  using K = ActivationConstants<F>;
  return tile::tanh_of((x + x * x * x * K::kCubic) * K::kRootTwoOverPi);
}

template <class F>
__device__ __forceinline__ F activate(Activation activation, F x) {
  using K = ActivationConstants<F>;
  switch (activation) {
    case Activation::relu:
      return x < 0 ? F(0) : x;  // NaN and -0 stay
    case Activation::relu6:
      return relu6_of(x);
    case Activation::leaky_relu:
      return x > 0 ? x : x * K::kLeak;
    case Activation::elu:
      return x < 0 ? tile::expm1_of(x) : x;
    case Activation::silu:
      return x / (1 + tile::exp_of(-x));
    case Activation::gelu:
      return x * F(0.5) * (1 + tile::erf_of(x * K::kRootHalf));
    case Activation::gelu_tanh:
      return x * F(0.5) * (1 + gelu_tanh_of(x));
    case Activation::sigmoid:
      return tile::sigmoid(x);
    case Activation::tanh:
      return tile::tanh_of(x);
    case Activation::hardswish:
      return x * relu6_of(x + 3) / 6;
    case Activation::hardsigmoid:
      return relu6_of(x + 3) / 6;
    case Activation::step:
      return x > 0 ? F(1) : F(0);
    default:
      return x;
  }
}

// Told from the result y, of the activations that the host knows to be so. At a kink it is torch's.
template <class F>
__device__ __forceinline__ F derivative_from_result(Activation activation, F y) {
  using K = ActivationConstants<F>;
  switch (activation) {
    case Activation::relu:
      return y <= 0 ? F(0) : F(1);  // NaN passes its gradient
    case Activation::relu6:
      return y <= 0 || y >= 6 ? F(0) : F(1);
    case Activation::leaky_relu:
      return y > 0 ? F(1) : K::kLeak;
    case Activation::elu:
      return y > 0 ? F(1) : y + 1;
    case Activation::sigmoid:
      return (1 - y) * y;
    case Activation::tanh:
      return 1 - y * y;
    case Activation::hardsigmoid:
      return y > 0 && y < 1 ? F(1) / 6 : F(0);
    case Activation::step:
      return F(0);
    default:
      return F(1);
  }
}

// At x: what activation() saved, the result of sigmoid and tanh, else the input.
template <class F>
__device__ __forceinline__ F derivative(Activation activation, F x) {
  using K = ActivationConstants<F>;
  switch (activation) {
    case Activation::relu6:
      return x > 0 && x < 6 ? F(1) : F(0);  // 0 at NaN, unlike relu: so it is in torch
    case Activation::elu:
      return x <= 0 ? tile::exp_of(x) : x != x ? x : F(1);
    case Activation::silu: {
      const F s = tile::sigmoid(x);
      return s * (x * (1 - s) + 1);
    }
    case Activation::gelu: {
      const F density = tile::exp_of(x * x * F(-0.5)) * (K::kRootTwoOverPi / 2);
      return (tile::erf_of(x * K::kRootHalf) + 1) * F(0.5) + x * density;
    }
    case Activation::gelu_tanh: {
      const F t = gelu_tanh_of(x);
      const F inner = (x * x * (3 * K::kCubic) + 1) * K::kRootTwoOverPi;
      return (t + 1) * F(0.5) + x * F(0.5) * (1 - t * t) * inner;
    }
    case Activation::hardswish:
      return x <= -3 ? F(0) : x >= 3 ? F(1) : x / 3 + F(0.5);
    case Activation::hardsigmoid:
      return x > -3 && x < 3 ? F(1) / 6 : F(0);
    default:  // relu and its like: the result has the sign of the input
      return derivative_from_result(activation, x);
  }
}

// What derivative() is told, from the activation's input.
template <class F>
__device__ __forceinline__ F derivative_argument(Activation activation, F x) {
  const bool of_result = activation == Activation::sigmoid || activation == Activation::tanh;
  return of_result ? activate(activation, x) : x;
}

// grad_y * derivative; where torch selects instead of multiplying, infinities and NaN of grad_y
// vanish as in torch.
template <class F>
__device__ __forceinline__ F times_derivative(Activation activation, F grad_y, F derivative) {
  switch (activation) {
    case Activation::relu:
    case Activation::relu6:
    case Activation::hardswish:
    case Activation::hardsigmoid:
    case Activation::step:
      return derivative == 0 ? F(0) : grad_y * derivative;
    default:
      return grad_y * derivative;
  }
}

// grad times the derivative told from the result; where it is 0, 0 even for NaN and infinity.
template <class F>
__device__ __forceinline__ F gated(Activation activation, F grad, F y) {
  const F derivative = derivative_from_result(activation, y);
  return derivative == 0 ? F(0) : grad * derivative;
}

}  // namespace torchext
