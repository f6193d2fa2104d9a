"""batch_norm and group_norm: sums over each channel of each image, put together on tensors of
[N, C], then a function per channel of every element.

A program sums a tile of [BLOCK_S pixels, BLOCK_C channels], many pixels where they are adjacent in
memory and many channels where those are. Not timed yet.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._dense import compute_dtype
from torchext.ops._pool2d import is_channels_last

from ._activation import activate, derivative, derivative_argument, times_derivative
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
def _gated(g, d, scale, shift, residual, at, inside, activation: tl.constexpr):
    """g times the activation's derivative at d * scale + shift + residual: what it was given."""
    if activation == 0:
        return g
    else:
        u = d * scale + shift
        if residual is not None:
            u += widened(tl.load(residual + at, inside, 0.0))
        slope = derivative(derivative_argument(u, activation), activation)
        return times_derivative(g, slope, activation)


@triton.jit
def _channel_sums_kernel(
    g,
    x,
    mean,
    scale,  # the forward op's, for the activation's derivative
    shift,
    residual,
    of_g,
    of_products,
    C,
    S,
    activation: tl.constexpr,
    channels_last: tl.constexpr,
    large: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    s = tl.arange(0, BLOCK_S)[:, None]
    _, channel, there = _tile(C, S, channels_last, large, 0, BLOCK_C)
    m = tl.load(mean + channel, there, 0.0)
    a, b = m, m
    if activation != 0:
        a = tl.load(scale + channel, there, 0.0)
        b = tl.load(shift + channel, there, 0.0)
    sums = widened(tl.zeros([BLOCK_S, BLOCK_C], mean.dtype.element_ty))
    products = sums
    for first in range(0, S, BLOCK_S):
        at, _, inside = _tile(C, S, channels_last, large, first + s, BLOCK_C)
        inside = inside & (first + s < S)
        v = widened(tl.load(g + at, inside, 0.0))
        d = tl.where(inside, widened(tl.load(x + at, inside, 0.0)) - m, 0.0)
        v = tl.where(inside, _gated(v, d, a, b, residual, at, inside, activation), 0.0)
        sums += v
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
    forward_shift,
    residual,
    gated,
    count,
    C,
    S,
    activation: tl.constexpr,
    gate_activation: tl.constexpr,
    channels_last: tl.constexpr,
    large: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = act((x - mean) * scale + g * g_scale + shift); without scale, or g, their terms are
    missing; without g_scale it is 1. With a gate, of a forward op of scale g_scale, g passes it
    first, and is stored."""
    k, inside = offsets(count, large, BLOCK)
    channel = k // (C * S) * C + k % C if channels_last else k // S
    v = tl.load(shift + channel, inside, 0.0)
    d = v
    if x is not None:
        d = widened(tl.load(x + k, inside, 0.0)) - tl.load(mean + channel, inside, 0.0)
    if scale is not None:
        v += d * tl.load(scale + channel, inside, 0.0)
    if g is not None:
        of_g = widened(tl.load(g + k, inside, 0.0))
        if g_scale is not None:
            s = tl.load(g_scale + channel, inside, 0.0)
            if gate_activation != 0:
                b = tl.load(forward_shift + channel, inside, 0.0)
                of_g = _gated(of_g, d, s, b, residual, k, inside, gate_activation)
            if gated is not None:
                tl.store(gated + k, of_g, inside)
            of_g *= s
        v += of_g
    tl.store(y + k, activate(v, activation), inside)


class Gate(NamedTuple):
    """The activation of the forward op that a gradient passes first, and its operands."""

    activation: int = 0
    shift: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    gated: torch.Tensor | None = None  # where the gradient behind it goes, or None


NO_GATE = Gate()


class Layout:
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

    def sum(self, kernel, *tensors, how=()):
        """Two sums over each channel of each image, in float64."""
        sums = self.arrays()
        grid = (self.N, triton.cdiv(self.C, self.tile[1]))
        if self.N:
            sizes = (self.C, self.S)
            kernel[grid](*tensors, sums[0], sums[1], *sizes, *how, *self.how, *self.tile)
        return sums.double()

    def spread(self, statistics):
        """[C] or [N, groups] as [N, C], of the type computed in."""
        if statistics.dim() == 2:
            statistics = statistics.repeat_interleave(self.C // statistics.shape[1], 1)
        return statistics.to(self.dtype).expand(self.N, self.C).contiguous()

    def apply(self, y, x, mean, scale, g, g_scale, shift, activation=0, gate=NO_GATE):
        arrays = (mean, scale, g_scale, shift, gate.shift)
        arrays = [None if t is None else self.spread(t) for t in arrays]
        mean, scale, g_scale, shift, forward_shift = arrays
        if count := y.numel():
            _channel_affine_kernel[(triton.cdiv(count, BLOCK),)](
                *(x, mean, scale, g, g_scale, shift, y, forward_shift, gate.residual, gate.gated),
                *(count, self.C, self.S, activation, gate.activation, *self.how, BLOCK),
            )


def _over_sets(t, groups, weight=None):
    """Sums of [N, C] over what shares statistics: [N, groups], or [C] for groups = 0."""
    t = t if weight is None else t * weight.double()
    return t.unflatten(1, (groups, -1)).sum(2) if groups else t.sum(0)


def normalise(layout, y, mean, rstd, weight, bias, residual=None, activation=0):
    w = torch.ones_like(layout.spread(rstd)) if weight is None else weight.reshape(-1)
    b = torch.zeros_like(w) if bias is None else bias.reshape(-1)
    scale = layout.spread(rstd) * layout.spread(w)
    layout.apply(y, layout.x, mean, scale, residual, None, b, activation)


def _moments(layout, groups):
    """(mean, squares, count) of the sets, in float64."""
    mean, squares = layout.sum(_channel_moments_kernel, layout.x)
    count = (layout.C // groups if groups else layout.N) * layout.S
    of_set = _over_sets(mean, groups) * layout.S / max(count, 1)
    d = mean - layout.spread(of_set).double()
    return of_set, _over_sets(squares + layout.S * d * d, groups), count


def group_norm(x, groups, weight, bias, eps):
    y, mean, rstd = OPS["group_norm"].fake(x, groups, weight, bias, eps)
    layout = Layout(laid_out_as(y, x))
    of_set, squares, count = _moments(layout, groups)
    mean.copy_(of_set)
    rstd.copy_((squares / count + eps).rsqrt())
    normalise(layout, y, mean, rstd, weight, bias)
    return y, mean, rstd


def statistics_of_batch(layout, results, running_mean, running_var, training, momentum, eps):
    """Fills in mean, rstd and the new running statistics."""
    mean, rstd, *new = results
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


def batch_norm(x, weight, bias, *arguments):
    y, *results = OPS["batch_norm"].fake(x, weight, bias, *arguments)
    layout = Layout(laid_out_as(y, x))
    statistics_of_batch(layout, results, *arguments)
    normalise(layout, y, *results[:2], weight, bias)
    return y, *results


def backward(grads, grad_y, x, mean, rstd, groups, weight, training, gate=NO_GATE):
    grad_x, grad_weight, grad_bias = grads
    layout, g = Layout(laid_out_as(grad_x, x)), laid_out_as(grad_x, grad_y)
    w = None if weight is None else weight.reshape(-1)
    spread_mean, spread_rstd = layout.spread(mean), layout.spread(rstd).double()
    g_scale = layout.spread(spread_rstd if w is None else spread_rstd * w)
    forward = (g_scale, None, None)
    if gate.activation:
        forward = (g_scale, layout.spread(gate.shift), gate.residual)
    tensors = (g, layout.x, spread_mean, *forward)
    of_g, of_products = layout.sum(_channel_sums_kernel, *tensors, how=(gate.activation,))
    if grad_weight.numel():
        grad_weight.copy_((of_products * spread_rstd).sum(0))
        grad_bias.copy_(of_g.sum(0))
    count = (layout.C // groups if groups else layout.N) * layout.S
    r = rstd.double()
    shift = -r * _over_sets(of_g, groups, w) / max(count, 1)
    scale = -(r**3) * _over_sets(of_products, groups, w) / max(count, 1)
    if not training:
        scale, shift = None, torch.zeros_like(r)
    layout.apply(grad_x, layout.x, mean, scale, g, g_scale, shift, gate=gate)
    return grads


def group_norm_backward(grad_y, x, mean, rstd, groups, weight, eps, of_weights):
    arguments = (grad_y, x, mean, rstd, groups, weight, eps, of_weights)
    grads = OPS["group_norm_backward"].fake(*arguments)
    sets = (x.shape[0], groups)
    return backward(grads, grad_y, x, mean.view(sets), rstd.view(sets), groups, weight, True)


def batch_norm_backward(grad_y, x, mean, rstd, weight, training, eps, of_weights):
    arguments = (grad_y, x, mean, rstd, weight, training, eps, of_weights)
    grads = OPS["batch_norm_backward"].fake(*arguments)
    return backward(grads, grad_y, x, mean.view(-1), rstd.view(-1), 0, weight, training)


KERNELS = {
    "group_norm": group_norm,
    "group_norm_inference": lambda *args: group_norm(*args)[0],
    "group_norm_backward": group_norm_backward,
    "batch_norm": batch_norm,
    "batch_norm_inference": lambda *args: batch_norm(*args)[0],
    "batch_norm_backward": batch_norm_backward,
}
