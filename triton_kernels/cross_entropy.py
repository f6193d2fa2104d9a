"""cross_entropy: a program reads all classes of its items, as softmax.py does; means and sums over
items are torch's. A class out of range gives NaN. Not timed yet.
"""

import torch
import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._dense import compute_dtype
from torchext.ops.cross_entropy import _total_weight

from ._rows import is_large, widened
from .softmax import axis_launch, axis_tile, shifted


@triton.jit
def _parts(
    target,
    weight,
    at,
    inside,
    item,
    there,
    classes,
    ignored,
    smoothing,
    uniform,
    like,
    BLOCK: tl.constexpr,
):
    """How much each class counts [BLOCK, COLUMNS], and which items count at all."""
    k = tl.arange(0, BLOCK)[:, None]
    counted = there
    if target.dtype.element_ty == tl.int64:
        given = tl.load(target + item, there, 0)
        counted = given != ignored
        parts = tl.where(k == given, 1.0, tl.zeros_like(like))
        valid = (given >= 0) & (given < classes)
        parts = tl.where(valid, parts, float("nan"))
    else:
        parts = widened(tl.load(target + at, inside, 0.0))
    parts = parts * (1 - smoothing) + uniform
    if weight is not None:
        parts *= widened(tl.load(weight + k, k < classes, 0.0))
    return tl.where(inside, parts, 0.0), counted


@triton.jit
def _cross_entropy_kernel(
    x,
    target,
    weight,
    loss,
    lse,
    classes,
    inner,
    ignored,
    smoothing: tl.constexpr,
    uniform: tl.constexpr,  # smoothing / classes
    large: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    at, inside, item, there = axis_tile(classes, inner, large, BLOCK, COLUMNS)
    v, largest, total = shifted(x, at, inside)
    log_total = tl.log(total)
    parts, counted = _parts(
        target, weight, at, inside, item, there, classes, ignored, smoothing, uniform, v, BLOCK
    )
    # A class that counts for nothing adds nothing, unless it is given as a probability.
    terms = parts * (log_total - v)
    if target.dtype.element_ty == tl.int64:
        terms = tl.where(parts == 0, 0.0, terms)
    terms = tl.where(inside, terms, 0.0)
    of_item = tl.where(counted, tl.sum(terms, axis=0, keep_dims=True), 0.0)
    tl.store(loss + item, of_item, there)
    tl.store(lse + item, largest + log_total, there)


@triton.jit
def _cross_entropy_backward_kernel(
    grad_loss,
    x,
    target,
    weight,
    lse,
    grad_x,
    classes,
    inner,
    ignored,
    smoothing: tl.constexpr,
    uniform: tl.constexpr,  # smoothing / classes
    large: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    at, inside, item, there = axis_tile(classes, inner, large, BLOCK, COLUMNS)
    v = widened(tl.load(x + at, inside, 0.0))
    share = tl.exp(v - tl.load(lse + item, there, 0.0))
    parts, counted = _parts(
        target, weight, at, inside, item, there, classes, ignored, smoothing, uniform, v, BLOCK
    )
    g = tl.load(grad_loss + item, there, 0.0)
    grad = g * (share * tl.sum(parts, axis=0, keep_dims=True) - parts)
    tl.store(grad_x + at, tl.where(counted, grad, 0.0), inside)


def _sizes(x):
    """(items before, classes, items after) the classes."""
    return (1, x.shape[0], 1) if x.dim() == 1 else (*x.shape[:2], x.shape[2:].numel())


def _flat(weight):
    return None if weight is None else weight.contiguous()


def cross_entropy(x, target, weight, reduction, ignore_index, label_smoothing):
    loss, lse, total = OPS["cross_entropy"].fake(
        x, target, weight, reduction, ignore_index, label_smoothing
    )
    losses = torch.empty_like(lse)
    outer, classes, inner = _sizes(x)
    if x.numel():
        grid, *blocks = axis_launch(classes, inner, outer)
        _cross_entropy_kernel[grid](
            *(x.contiguous(), target.contiguous(), _flat(weight), losses, lse),
            *(classes, inner, ignore_index, label_smoothing, label_smoothing / classes),
            *(is_large(x), *blocks),
        )
    wide = None if weight is None else weight.to(lse.dtype)
    total.copy_(_total_weight(x.to(lse.dtype), target, wide, ignore_index))
    if reduction == 0:
        loss.copy_(losses)
    else:
        loss.copy_(losses.sum() / total if reduction == 1 else losses.sum())
    return loss, lse, total


def cross_entropy_backward(
    grad_loss, x, target, weight, lse, total_weight, reduction, ignore_index, label_smoothing
):
    rest = (reduction, ignore_index, label_smoothing)
    grad_x = OPS["cross_entropy_backward"].fake(
        grad_loss, x, target, weight, lse, total_weight, *rest
    )
    g = grad_loss.to(compute_dtype(x))
    g = (g / total_weight if reduction == 1 else g).expand(lse.shape).contiguous()
    outer, classes, inner = _sizes(x)
    if x.numel():
        grid, *blocks = axis_launch(classes, inner, outer)
        _cross_entropy_backward_kernel[grid](
            *(g, x.contiguous(), target.contiguous(), _flat(weight), lse.contiguous(), grad_x),
            *(classes, inner, ignore_index, label_smoothing, label_smoothing / classes),
            *(is_large(x), *blocks),
        )
    return grad_x


KERNELS = {
    "cross_entropy": cross_entropy,
    "cross_entropy_inference": lambda *args: cross_entropy(*args)[0],
    "cross_entropy_backward": cross_entropy_backward,
}
