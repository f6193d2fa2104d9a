"""The activations of torchext/ops/_activation.py, by number, as csrc/cpu/activation.h has them."""

import triton
import triton.language as tl

ROOT_HALF = tl.constexpr(0.70710678118654752)
ROOT_TWO_OVER_PI = tl.constexpr(0.79788456080286536)
CUBIC = tl.constexpr(0.044715)


@triton.jit
def expm1(x):
    """e^x - 1 for x <= 0: near 0, where the difference would cancel, 2 t / (1 - t) with a series
    for t = tanh(x / 2)."""
    h = x * 0.5
    s = h * h
    t = h * (1 - s * (1 / 3 - s * (2 / 15 - s * (17 / 315 - s * (62 / 2835 - s * 1382 / 155925)))))
    return tl.where(x > -0.125, 2 * t / (1 - t), tl.exp(x) - 1)


@triton.jit
def tanh(x):
    e = expm1(-2 * tl.abs(x))
    t = -e / (e + 2)
    return tl.where(x < 0, -t, tl.where(x == 0, x, t))


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def relu6(x):
    x = tl.where(x < 0, 0.0, x)  # NaN stays
    return tl.where(x > 6, 6.0, x)


@triton.jit
def activate(x, kind: tl.constexpr):
    if kind == 1:
        return tl.where(x < 0, 0.0, x)
    elif kind == 2:
        return relu6(x)
    elif kind == 3:
        return tl.where(x > 0, x, x * 0.01)
    elif kind == 4:
        return tl.where(x < 0, expm1(x), x)
    elif kind == 5:
        return x / (1 + tl.exp(-x))
    elif kind == 6:
        return x * 0.5 * (1 + tl.erf(x * ROOT_HALF))
    elif kind == 7:
        return x * 0.5 * (1 + tanh((x + CUBIC * x * x * x) * ROOT_TWO_OVER_PI))
    elif kind == 8:
        return sigmoid(x)
    elif kind == 9:
        return tanh(x)
    elif kind == 10:
        return x * relu6(x + 3) / 6
    elif kind == 11:
        return relu6(x + 3) / 6
    elif kind == 12:
        return tl.where(x > 0, 1.0, 0.0).to(x.dtype)
    else:
        return x


@triton.jit
def derivative(x, kind: tl.constexpr):
    """At x, the result of sigmoid and tanh, else the input; at a kink it is torch's."""
    if kind == 1:
        return tl.where(x <= 0, 0.0, 1.0).to(x.dtype)  # NaN passes its gradient
    elif kind == 2:
        return tl.where((x > 0) & (x < 6), 1.0, 0.0).to(x.dtype)
    elif kind == 3:
        return tl.where(x > 0, 1.0, tl.full(x.shape, 0.01, x.dtype))
    elif kind == 4:
        return tl.exp(tl.where(x > 0, 0.0, x))
    elif kind == 5:
        s = sigmoid(x)
        return s * (1 + x * (1 - s))
    elif kind == 6:
        density = tl.exp(-0.5 * x * x) * (ROOT_TWO_OVER_PI / 2)
        return 0.5 * (1 + tl.erf(x * ROOT_HALF)) + x * density
    elif kind == 7:
        t = tanh((x + CUBIC * x * x * x) * ROOT_TWO_OVER_PI)
        inner = (1 + 3 * CUBIC * x * x) * ROOT_TWO_OVER_PI
        return 0.5 * (1 + t) + x * 0.5 * (1 - t * t) * inner
    elif kind == 8:
        return x * (1 - x)
    elif kind == 9:
        return 1 - x * x
    elif kind == 10:
        return tl.where(x <= -3, 0.0, tl.where(x >= 3, 1.0, x / 3 + 0.5))
    elif kind == 11:
        sixth = tl.full(x.shape, 1.0, x.dtype) / 6
        return tl.where((x > -3) & (x < 3), sixth, 0.0)
    elif kind == 12:
        return x * 0.0
    else:
        return tl.full(x.shape, 1.0, x.dtype)


@triton.jit
def derivative_argument(x, kind: tl.constexpr):
    """What derivative is told, from the activation's input."""
    if kind == 8 or kind == 9:
        return activate(x, kind)
    else:
        return x


@triton.jit
def times_derivative(grad_y, d, kind: tl.constexpr):
    """Where torch selects instead of multiplying, infinities of grad_y vanish as in torch."""
    if kind == 1 or kind == 2 or kind == 10 or kind == 11:
        return tl.where(d == 0, 0.0, grad_y * d)
    elif kind == 12:
        return tl.zeros_like(grad_y)
    else:
        return grad_y * d
