"""activation and its gradient, element by element over dense memory: BLOCK elements a program, 16
bytes a thread and access. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS

from ._activation import activate, derivative, times_derivative
from ._rows import densified, is_large, laid_out_as, offsets, widened

BLOCK = 1024


@triton.jit
def _activate_kernel(x, y, count, kind: tl.constexpr, large: tl.constexpr, BLOCK: tl.constexpr):
    k, inside = offsets(count, large, BLOCK)
    v = widened(tl.load(x + k, inside, 0.0))
    tl.store(y + k, activate(v, kind), inside)


@triton.jit
def _activate_backward_kernel(
    grad_y, x, grad_x, count, kind: tl.constexpr, large: tl.constexpr, BLOCK: tl.constexpr
):
    k, inside = offsets(count, large, BLOCK)
    v = widened(tl.load(x + k, inside, 0.0))
    g = widened(tl.load(grad_y + k, inside, 0.0))
    tl.store(grad_x + k, times_derivative(g, derivative(v, kind), kind), inside)


def activation(x, kind):
    y = OPS["activation"].fake(x, kind)
    x = densified(x)
    if count := x.numel():
        _activate_kernel[(triton.cdiv(count, BLOCK),)](x, y, count, kind, is_large(x), BLOCK)
    return y


def activation_backward(grad_y, x, kind):
    grad_x = OPS["activation_backward"].fake(grad_y, x, kind)
    x, grad_y = densified(x), laid_out_as(grad_x, grad_y)
    if count := x.numel():
        grid = (triton.cdiv(count, BLOCK),)
        _activate_backward_kernel[grid](grad_y, x, grad_x, count, kind, is_large(x), BLOCK)
    return grad_x


KERNELS = {
    "activation": activation,
    "activation_inference": activation,
    "activation_backward": activation_backward,
}
