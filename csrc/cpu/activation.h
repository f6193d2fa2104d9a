// Activations of vectors, for epilogues and for the activation op itself.
#pragma once

#include "../common/activation.h"
#include "math.h"

namespace torchext::cpu::TORCHEXT_ISA {
namespace {

constexpr double kLeak = 0.01;  // leaky_relu's slope below 0
constexpr double kSixth = 1.0 / 6;
constexpr double kRootHalf = 0.70710678118654752;  // sqrt(1 / 2)
constexpr double kRootTwoOverPi = 0.79788456080286536;
constexpr double kCubic = 0.044715;  // of gelu_tanh

template <class V>
INLINE V relu6_of(V x) {
  return at_most(at_least(x, 0), 6);
}

// Dividing by 6 takes longer than all the rest.
template <class V>
INLINE V hardswish_of(V x) {
  return x * relu6_of(x + 3) * LaneOf<V>(kSixth);
}

// The long ones, out of line: an epilogue calls activate() for every vector of a tile.
template <class V>
static __attribute__((noinline)) V activate_by_call(Activation activation, V x) {
  using F = LaneOf<V>;
  switch (activation) {
    case Activation::elu:
      return x < 0 ? vexpm1(x) : x;
    case Activation::silu:
      return x / (vexp(-x) + 1);
    case Activation::gelu:
      return x * F(0.5) * (verf(x * F(kRootHalf)) + 1);
    case Activation::gelu_tanh:
      return x * F(0.5) * (vtanh((x + x * x * x * F(kCubic)) * F(kRootTwoOverPi)) + 1);
    case Activation::sigmoid:
      return vsigmoid(x);
    case Activation::tanh:
      return vtanh(x);
    default:
      return x;
  }
}

template <class V>
INLINE V activate(Activation activation, V x) {
  using F = LaneOf<V>;
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return at_least(x, 0);  // NaN and -0 stay
    case Activation::relu6:
      return relu6_of(x);
    case Activation::leaky_relu:
      return x > 0 ? x : x * F(kLeak);
    case Activation::hardswish:
      return hardswish_of(x);
    case Activation::hardsigmoid:
      return relu6_of(x + 3) * F(kSixth);
    case Activation::step:
      return x > 0 ? V{} + 1 : V{};
    default:
      return activate_by_call(activation, x);
  }
}

// Those whose derivative can be told from the result alone.
constexpr bool known_from_result(Activation activation) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:
    case Activation::relu6:
    case Activation::leaky_relu:
    case Activation::elu:
    case Activation::sigmoid:
    case Activation::tanh:
    case Activation::hardsigmoid:
    case Activation::step:
      return true;
    default:
      return false;
  }
}

// The derivative told from the result y, where known_from_result(). At a kink it is torch's.
template <class V>
INLINE V derivative_from_result(Activation activation, V y) {
  using F = LaneOf<V>;
  const V zero{}, one = zero + 1;
  switch (activation) {
    case Activation::relu:
      return y <= 0 ? zero : one;  // NaN passes its gradient
    case Activation::relu6:
      return (y <= 0) | (y >= 6) ? zero : one;
    case Activation::leaky_relu:
      return y > 0 ? one : zero + F(kLeak);
    case Activation::elu:
      return y > 0 ? one : y + 1;
    case Activation::sigmoid:
      return (1 - y) * y;
    case Activation::tanh:
      return 1 - y * y;
    case Activation::hardsigmoid:
      return (y > 0) & (y < 1) ? one / 6 : zero;
    case Activation::step:
      return zero;
    default:
      return one;
  }
}

// The derivative at x: what activation() saved, the result of sigmoid and tanh, else the input.
template <class V>
INLINE V derivative(Activation activation, V x) {
  using F = LaneOf<V>;
  const V zero{}, one = zero + 1;
  switch (activation) {
    case Activation::relu6:
      return (x > 0) & (x < 6) ? one : zero;  // 0 at NaN, unlike relu: so it is in torch
    case Activation::elu:
      return x <= 0 ? vexp(x) : x != x ? x : one;
    case Activation::silu: {
      const V s = vsigmoid(x);
      return s * (x * (1 - s) + 1);
    }
    case Activation::gelu: {
      const V density = vexp(x * x * F(-0.5)) * F(kRootTwoOverPi / 2);
      return (verf(x * F(kRootHalf)) + 1) * F(0.5) + x * density;
    }
    case Activation::gelu_tanh: {
      const V square = x * x;
      const V t = vtanh((x + x * square * F(kCubic)) * F(kRootTwoOverPi));
      const V inner = (square * F(3 * kCubic) + 1) * F(kRootTwoOverPi);
      return (t + 1) * F(0.5) + x * F(0.5) * (1 - t * t) * inner;
    }
    case Activation::hardswish:
      return x <= -3 ? zero : x >= 3 ? one : x / 3 + F(0.5);
    case Activation::hardsigmoid:
      return (x > -3) & (x < 3) ? one / 6 : zero;
    default:  // relu and its like: the result has the sign of the input
      return derivative_from_result(activation, x);
  }
}

// What derivative() is told, from the activation's input.
template <class V>
INLINE V derivative_argument(Activation activation, V x) {
  const bool of_result = activation == Activation::sigmoid || activation == Activation::tanh;
  return of_result ? activate(activation, x) : x;
}

// grad_y * derivative; where torch selects instead of multiplying, infinities and NaN of grad_y
// vanish as in torch.
template <class V>
INLINE V times_derivative(Activation activation, V grad_y, V derivative) {
  switch (activation) {
    case Activation::relu:
    case Activation::relu6:
    case Activation::hardswish:
    case Activation::hardsigmoid:
    case Activation::step:
      return derivative == 0 ? V{} : grad_y * derivative;
    default:
      return grad_y * derivative;
  }
}

// grad times the derivative told from the result; where it is 0, 0 even for NaN and infinity.
template <class V>
INLINE V gated(Activation activation, V grad, V y) {
  const V derivative = derivative_from_result(activation, y);
  return derivative == 0 ? V{} : grad * derivative;
}

}  // namespace
}  // namespace torchext::cpu::TORCHEXT_ISA
