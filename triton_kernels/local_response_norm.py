"""local_response_norm, element by element: what a window has in common with its neighbours comes
from the caches. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS

from ._rows import is_large, laid_out_as, offsets, widened

BLOCK = 512


@triton.jit
def _local_response_norm_kernel(
    x, y, scale, count, C, inner, size, alpha, beta, k, large: tl.constexpr, BLOCK: tl.constexpr
):
    at, inside = offsets(count, large, BLOCK)
    c = at // inner % C
    v = widened(tl.load(x + at, inside, 0.0))
    squares = tl.zeros_like(v)
    for j in range(-(size // 2), (size + 1) // 2):
        there = inside & (c + j >= 0) & (c + j < C)
        other = widened(tl.load(x + at + j * inner, there, 0.0))
        squares += other * other
    s = k + alpha * squares
    tl.store(scale + at, s, inside)
    tl.store(y + at, v * tl.exp(-beta * tl.log(s)), inside)


@triton.jit
def _local_response_norm_backward_kernel(
    grad_y,
    x,
    y,
    scale,
    grad_x,
    count,
    C,
    inner,
    size,
    alpha,
    beta,
    large: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, inside = offsets(count, large, BLOCK)
    c = at // inner % C
    s = tl.load(scale + at, inside, 1.0)
    total = tl.zeros_like(s)
    for j in range(-((size - 1) // 2), size // 2 + 1):
        there = inside & (c + j >= 0) & (c + j < C)
        other = at + j * inner
        g = widened(tl.load(grad_y + other, there, 0.0))
        total += g * widened(tl.load(y + other, there, 0.0)) / tl.load(scale + other, there, 1.0)
    g = widened(tl.load(grad_y + at, inside, 0.0))
    v = widened(tl.load(x + at, inside, 0.0))
    tl.store(grad_x + at, g * tl.exp(-beta * tl.log(s)) - 2 * alpha * beta * v * total, inside)


def _shape(y):
    """(C, elements from one channel to the next)"""
    return y.shape[1], y.shape[2:].numel() if y.is_contiguous() else 1


def _reach(y, size):
    """As large a window as there are channels for, odd or even like `size`."""
    return min(size, 2 * y.shape[1] + size % 2)


def local_response_norm(x, size, alpha, beta, k):
    y, scale = OPS["local_response_norm"].fake(x, size, alpha, beta, k)
    if count := x.numel():
        _local_response_norm_kernel[(triton.cdiv(count, BLOCK),)](
            *(laid_out_as(y, x), y, scale, count, *_shape(y), _reach(y, size)),
            *(alpha / size, beta, k, is_large(x), BLOCK),
        )
    return y, scale


def local_response_norm_inference(*args):
    return local_response_norm(*args)[0]


def local_response_norm_backward(grad_y, x, y, scale, size, alpha, beta, k):
    grad_x = OPS["local_response_norm_backward"].fake(grad_y, x, y, scale, size, alpha, beta, k)
    if count := x.numel():
        _local_response_norm_backward_kernel[(triton.cdiv(count, BLOCK),)](
            *(laid_out_as(grad_x, t) for t in (grad_y, x, y, scale)),
            *(grad_x, count, *_shape(grad_x), _reach(x, size), alpha / size, beta),
            *(is_large(x), BLOCK),
        )
    return grad_x


KERNELS = {
    "local_response_norm": local_response_norm,
    "local_response_norm_inference": local_response_norm_inference,
    "local_response_norm_backward": local_response_norm_backward,
}
