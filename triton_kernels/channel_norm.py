"""batch_norm and group_norm: sums over each channel of each image, put together on tensors of
[N, C], then a function per channel of every element.

A program sums a tile of [BLOCK_S pixels, BLOCK_C channels], many pixels where they are adjacent in
memory and many channels where those are. Not timed yet.
"""

import torch
import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._dense import compute_dtype
from torchext.ops._pool2d import is_channels_last

from ._rows import is_large, laid_out_as, offsets, widened

BLOCK = 1024


@triton.jit
def _tile(C, S, channels_last: tl.constexpr, large: tl.constexpr, s, BLOCK_C: tl.constexpr):
    """(offsets of this program's channels at pixels s, its channels in [N, C], whether they are)"""
    n = tl.program_id(0)
    if large:
        n = n.to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    at = n * C * S + (s * C + c if channels_last else c * S + s)
    return at, n * C + c, c < C


@triton.jit
def _channel_moments_kernel(
    x,
    mean,
    squares,
    C,
    S,
    channels_last: tl.constexpr,
    large: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    s = tl.arange(0, BLOCK_S)[:, None]
    sums = widened(tl.zeros([BLOCK_S, BLOCK_C], mean.dtype.element_ty))
    for first in range(0, S, BLOCK_S):
        at, _, inside = _tile(C, S, channels_last, large, first + s, BLOCK_C)
        sums += widened(tl.load(x + at, inside & (first + s < S), 0.0))
    m = tl.sum(sums, axis=0, keep_dims=True) / S
    sums = tl.zeros_like(sums)
    for first in range(0, S, BLOCK_S):
        at, _, inside = _tile(C, S, channels_last, large, first + s, BLOCK_C)
        inside = inside & (first + s < S)
        d = tl.where(inside, widened(tl.load(x + at, inside, 0.0)) - m, 0.0)
        sums += d * d
    _, channel, there = _tile(C, S, channels_last, large, 0, BLOCK_C)
    tl.store(mean + channel, m, there)
    tl.store(squares + channel, tl.sum(sums, axis=0, keep_dims=True), there)


@triton.jit
def _channel_sums_kernel(
    g,
    x,
    mean,
    of_g,
    of_products,
    C,
    S,
    channels_last: tl.constexpr,
    large: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    s = tl.arange(0, BLOCK_S)[:, None]
    _, channel, there = _tile(C, S, channels_last, large, 0, BLOCK_C)
    m = tl.load(mean + channel, there, 0.0)
    sums = widened(tl.zeros([BLOCK_S, BLOCK_C], mean.dtype.element_ty))
    products = sums
    for first in range(0, S, BLOCK_S):
        at, _, inside = _tile(C, S, channels_last, large, first + s, BLOCK_C)
        inside = inside & (first + s < S)
        v = widened(tl.load(g + at, inside, 0.0))
        sums += v
        d = tl.where(inside, widened(tl.load(x + at, inside, 0.0)) - m, 0.0)
        products += v * d
    tl.store(of_g + channel, tl.sum(sums, axis=0, keep_dims=True), there)
    tl.store(of_products + channel, tl.sum(products, axis=0, keep_dims=True), there)


@triton.jit
def _channel_affine_kernel(
    x,
    mean,
    scale,
    g,
    g_scale,
    shift,
    y,
    count,
    C,
    S,
    channels_last: tl.constexpr,
    large: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = (x - mean) * scale + g * g_scale + shift; without x, or g, their terms are missing."""
    k, inside = offsets(count, large, BLOCK)
    channel = k // (C * S) * C + k % C if channels_last else k // S
    v = tl.load(shift + channel, inside, 0.0)
    if x is not None:
        d = widened(tl.load(x + k, inside, 0.0)) - tl.load(mean + channel, inside, 0.0)
        v += d * tl.load(scale + channel, inside, 0.0)
    if g is not None:
        of_g = widened(tl.load(g + k, inside, 0.0))
        v += of_g * tl.load(g_scale + channel, inside, 0.0)
    tl.store(y + k, v, inside)


class _Layout:
    """How x lies in memory, and the launches over it."""

    def __init__(self, x):
        self.N, self.C = x.shape[:2]
        self.S = x.shape[2:].numel()
        self.channels_last = self.S == 1 or is_channels_last(x)
        self.how = (self.channels_last, is_large(x))
        self.x, self.dtype = x, compute_dtype(x)
        blocks = min(32, triton.next_power_of_2(self.C)) if self.channels_last else 1
        self.tile = (min(BLOCK // blocks, triton.next_power_of_2(self.S)), blocks)

    def arrays(self):
        return torch.empty(2, self.N, self.C, dtype=self.dtype, device=self.x.device)

    def sum(self, kernel, *tensors):
        """Two sums over each channel of each image, in float64."""
        sums = self.arrays()
        grid = (self.N, triton.cdiv(self.C, self.tile[1]))
        if self.N:
            kernel[grid](*tensors, sums[0], sums[1], self.C, self.S, *self.how, *self.tile)
        return sums.double()

    def spread(self, statistics):
        """[C] or [N, groups] as [N, C], of the type computed in."""
        if statistics.dim() == 2:
            statistics = statistics.repeat_interleave(self.C // statistics.shape[1], 1)
        return statistics.to(self.dtype).expand(self.N, self.C).contiguous()

    def apply(self, y, x, mean, scale, g, g_scale, shift):
        arrays = [None if t is None else self.spread(t) for t in (mean, scale, g_scale, shift)]
        mean, scale, g_scale, shift = arrays
        if count := y.numel():
            _channel_affine_kernel[(triton.cdiv(count, BLOCK),)](
                *(x, mean, scale, g, g_scale, shift, y, count, self.C, self.S, *self.how, BLOCK)
            )


def _over_sets(t, groups, weight=None):
    """Sums of [N, C] over what shares statistics: [N, groups], or [C] for groups = 0."""
    t = t if weight is None else t * weight.double()
    return t.unflatten(1, (groups, -1)).sum(2) if groups else t.sum(0)


def _normalise(layout, y, mean, rstd, weight, bias):
    w = torch.ones_like(layout.spread(rstd)) if weight is None else weight.reshape(-1)
    b = torch.zeros_like(w) if bias is None else bias.reshape(-1)
    layout.apply(y, layout.x, mean, layout.spread(rstd) * layout.spread(w), None, None, b)


def _moments(layout, groups):
    """(mean, squares, count) of the sets, in float64."""
    mean, squares = layout.sum(_channel_moments_kernel, layout.x)
    count = (layout.C // groups if groups else layout.N) * layout.S
    of_set = _over_sets(mean, groups) * layout.S / max(count, 1)
    d = mean - layout.spread(of_set).double()
    return of_set, _over_sets(squares + layout.S * d * d, groups), count


def group_norm(x, groups, weight, bias, eps):
    y, mean, rstd = OPS["group_norm"].fake(x, groups, weight, bias, eps)
    layout = _Layout(laid_out_as(y, x))
    of_set, squares, count = _moments(layout, groups)
    mean.copy_(of_set)
    rstd.copy_((squares / count + eps).rsqrt())
    _normalise(layout, y, mean, rstd, weight, bias)
    return y, mean, rstd


def batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps):
    y, mean, rstd, *new = OPS["batch_norm"].fake(
        x, weight, bias, running_mean, running_var, training, momentum, eps
    )
    layout = _Layout(laid_out_as(y, x))
    if training:
        of_set, squares, count = _moments(layout, 0)
        mean.copy_(of_set)
        rstd.copy_((squares / count + eps).rsqrt() if count else torch.nan)
        if running_mean is not None:
            new[0].copy_((1 - momentum) * running_mean + momentum * of_set)
            new[1].copy_((1 - momentum) * running_var + momentum * (squares / (count - 1)))
    else:
        mean.copy_(running_mean)
        rstd.copy_((running_var.double() + eps).rsqrt())
    _normalise(layout, y, mean, rstd, weight, bias)
    return y, mean, rstd, *new


def _backward(grads, grad_y, x, mean, rstd, groups, weight, training):
    grad_x, grad_weight, grad_bias = grads
    layout, g = _Layout(laid_out_as(grad_x, x)), laid_out_as(grad_x, grad_y)
    w = None if weight is None else weight.reshape(-1)
    spread_mean, spread_rstd = layout.spread(mean), layout.spread(rstd).double()
    of_g, of_products = layout.sum(_channel_sums_kernel, g, layout.x, spread_mean)
    if grad_weight.numel():
        grad_weight.copy_((of_products * spread_rstd).sum(0))
        grad_bias.copy_(of_g.sum(0))
    count = (layout.C // groups if groups else layout.N) * layout.S
    r = rstd.double()
    shift = -r * _over_sets(of_g, groups, w) / max(count, 1)
    scale = -(r**3) * _over_sets(of_products, groups, w) / max(count, 1)
    g_scale = spread_rstd if w is None else spread_rstd * w
    if training:
        layout.apply(grad_x, layout.x, mean, scale, g, g_scale, shift)
    else:
        layout.apply(grad_x, None, None, None, g, g_scale, torch.zeros_like(r))
    return grads


def group_norm_backward(grad_y, x, mean, rstd, groups, weight, eps, of_weights):
    arguments = (grad_y, x, mean, rstd, groups, weight, eps, of_weights)
    grads = OPS["group_norm_backward"].fake(*arguments)
    sets = (x.shape[0], groups)
    return _backward(grads, grad_y, x, mean.view(sets), rstd.view(sets), groups, weight, True)


def batch_norm_backward(grad_y, x, mean, rstd, weight, training, eps, of_weights):
    arguments = (grad_y, x, mean, rstd, weight, training, eps, of_weights)
    grads = OPS["batch_norm_backward"].fake(*arguments)
    return _backward(grads, grad_y, x, mean.view(-1), rstd.view(-1), 0, weight, training)


KERNELS = {
    "group_norm": group_norm,
    "group_norm_inference": lambda *args: group_norm(*args)[0],
    "group_norm_backward": group_norm_backward,
    "batch_norm": batch_norm,
    "batch_norm_inference": lambda *args: batch_norm(*args)[0],
    "batch_norm_backward": batch_norm_backward,
}
