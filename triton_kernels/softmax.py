"""softmax and log_softmax: a program reads the whole axis of one row, or of COLUMNS columns where
the axis is not adjacent in memory. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS

from ._rows import is_large, laid_out_as, widened

COLUMNS = 32


@triton.jit
def axis_tile(size, inner, large: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """(offsets [BLOCK, COLUMNS] of this program's axes, inside; its items, whether they are)"""
    n = tl.program_id(0)
    if large:
        n = n.to(tl.int64)
    i = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    k = tl.arange(0, BLOCK)[:, None]
    return (n * size + k) * inner + i, (k < size) & (i < inner), n * inner + i, i < inner


@triton.jit
def shifted(x, at, inside):
    """(x minus its largest along the axis, that, the sum of exponentials)"""
    v = widened(tl.load(x + at, inside, -float("inf")))
    largest = tl.max(v, axis=0, keep_dims=True)
    v = v - largest
    return v, largest, tl.sum(tl.where(inside, tl.exp(v), 0.0), axis=0, keep_dims=True)


@triton.jit
def _softmax_kernel(
    x,
    y,
    size,
    inner,
    log: tl.constexpr,
    large: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    at, inside, _, _ = axis_tile(size, inner, large, BLOCK, COLUMNS)
    v, _, total = shifted(x, at, inside)
    tl.store(y + at, v - tl.log(total) if log else tl.exp(v) / total, inside)


@triton.jit
def _softmax_backward_kernel(
    grad_y,
    y,
    grad_x,
    size,
    inner,
    log: tl.constexpr,
    large: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    at, inside, _, _ = axis_tile(size, inner, large, BLOCK, COLUMNS)
    g = widened(tl.load(grad_y + at, inside, 0.0))
    v = widened(tl.load(y + at, inside, 0.0))
    total = tl.sum(g if log else g * v, axis=0, keep_dims=True)
    tl.store(grad_x + at, g - tl.exp(v) * total if log else v * (g - total), inside)


def axis_launch(size, inner, outer):
    """(grid, BLOCK, COLUMNS)"""
    columns = min(COLUMNS, triton.next_power_of_2(inner))
    return (outer, triton.cdiv(inner, columns)), triton.next_power_of_2(size), columns


def _sizes(y, dim):
    """(outer, size, inner) in memory."""
    if y.dim() == 0:
        return 1, 1, 1
    dim, size = dim % y.dim(), y.shape[dim]
    inner = y.shape[dim + 1 :].numel()
    outer = y.shape[:dim].numel()
    return (outer, size, inner) if y.is_contiguous() else (outer * inner, size, 1)


def softmax(x, dim, log):
    y = OPS["softmax"].fake(x, dim, log)
    outer, size, inner = _sizes(y, dim)
    if y.numel():
        grid, *blocks = axis_launch(size, inner, outer)
        _softmax_kernel[grid](laid_out_as(y, x), y, size, inner, log, is_large(x), *blocks)
    return y


def softmax_backward(grad_y, y, dim, log):
    grad_x = OPS["softmax_backward"].fake(grad_y, y, dim, log)
    outer, size, inner = _sizes(grad_x, dim)
    if y.numel():
        grid, *blocks = axis_launch(size, inner, outer)
        _softmax_backward_kernel[grid](
            *(laid_out_as(grad_x, grad_y), laid_out_as(grad_x, y), grad_x),
            *(size, inner, log, is_large(y), *blocks),
        )
    return grad_x


KERNELS = {
    "softmax": softmax,
    "softmax_inference": softmax,
    "softmax_backward": softmax_backward,
}
