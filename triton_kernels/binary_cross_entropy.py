"""binary_cross_entropy and its gradient, element by element over dense memory. Not timed yet."""

import triton
import triton.language as tl

from torchext.ops import OPS

from ._activation import sigmoid
from ._rows import is_large, laid_out_as, offsets, widened

BLOCK = 1024


@triton.jit
def _log1p(x):
    """log(1 + x) for -1 <= x <= 1: what the sum loses is put back."""
    y = 1 + x
    return tl.where(y > 0, tl.log(y) + (x - (y - 1)) / y, tl.log(y))


@triton.jit
def _clamped(x):
    return tl.where(x < -100, -100.0, x)  # NaN stays


@triton.jit
def _binary_cross_entropy_kernel(
    x,
    target,
    weight,
    pos_weight,
    grad_loss,
    y,
    count,
    logits: tl.constexpr,
    large: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The losses, or the gradient of x where grad_loss is given."""
    k, inside = offsets(count, large, BLOCK)
    v = widened(tl.load(x + k, inside, 0.5))
    t = widened(tl.load(target + k, inside, 0.0))
    q = tl.full(v.shape, 1.0, v.dtype)
    if pos_weight is not None:
        q += (widened(tl.load(pos_weight + k, inside, 1.0)) - 1) * t
    if grad_loss is None:
        if logits:
            r = (1 - t) * v + q * (_log1p(tl.exp(-tl.abs(v))) - tl.where(v > 0, 0.0, v))
        else:
            r = (t - 1) * _clamped(_log1p(-v)) - t * _clamped(tl.log(v))
    else:
        if logits:
            r = 1 - t - q * sigmoid(-v)
        else:
            product = (1 - v) * v
            r = (v - t) / tl.where(product < 1e-12, 1e-12, product)
        r *= widened(tl.load(grad_loss + k, inside, 0.0))
    if weight is not None:
        r *= widened(tl.load(weight + k, inside, 0.0))
    tl.store(y + k, r, inside)


def _launch(y, grad_loss, x, target, weight, pos_weight, logits):
    tensors = (x, target, weight, pos_weight, grad_loss)
    tensors = [None if t is None else laid_out_as(y, t) for t in tensors]
    if count := y.numel():
        grid = (triton.cdiv(count, BLOCK),)
        _binary_cross_entropy_kernel[grid](*tensors, y, count, logits, is_large(y), BLOCK)
    return y


def binary_cross_entropy(*arguments):
    return _launch(OPS["binary_cross_entropy"].fake(*arguments), None, *arguments)


def binary_cross_entropy_backward(*arguments):
    return _launch(OPS["binary_cross_entropy_backward"].fake(*arguments), *arguments)


KERNELS = {
    "binary_cross_entropy": binary_cross_entropy,
    "binary_cross_entropy_inference": binary_cross_entropy,
    "binary_cross_entropy_backward": binary_cross_entropy_backward,
}
