"""What convolution's kernels share: geometry, gates of fused activations, and products of tiles."""

from math import gcd
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ._pool2d import Window, needs_int64, specialised, widened

# A tile's rows, columns and depth, by element size: accumulators and operands stay in registers.
# By what compiles without spills; not swept yet.
BLOCKS = {2: (64, 64, 32), 4: (64, 32, 16), 8: (32, 32, 16)}


class Taps(NamedTuple):
    """A Window, and the distance of the taps by which one input reaches outputs (transposed)."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    step: int


def taps_along(kernel_size, stride, padding, dilation):
    """Those along rows and columns, and what needs_int64 must know of them."""
    axes = list(zip(kernel_size, stride, padding, dilation, strict=True))
    taps = [specialised(Taps(*axis, axis[1] // gcd(axis[1], axis[3]))) for axis in axes]
    return taps, [Window(*axis) for axis in axes]


def is_wide(tensors, sizes, outputs, axes):
    """Whether index arithmetic needs 64 bits."""
    reaches = [w.reach(*size) for w, *size in zip(axes, sizes, outputs, strict=True)]
    return needs_int64(*(x for x in tensors if x is not None), reach=max(reaches))


def block(size, most):
    """A tile's side: no smaller than tensor cores take."""
    return min(most, max(16, triton.next_power_of_2(size)))


def is_depthwise(channels, groups):
    return channels == groups > 1


def accumulator(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@triton.jit
def gated(grad, gate, at_gate, inside, activation: tl.constexpr):
    """grad times the derivative of an activation, told from its result; without a gate, grad."""
    if gate is None or activation == 0:
        return grad
    else:
        y = widened(tl.load(gate + at_gate, inside, 0.0))
        closed = y <= 0 if activation == 1 else (y <= 0) | (y >= 6)
        return tl.where(closed, 0.0, grad).to(grad.dtype)


@triton.jit
def product(a, b, acc):
    """acc + a b, float32 without TF32's rounding."""
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)


@triton.jit
def read(o, tap, size, window, transposed: tl.constexpr):
    """(the input that output o reads at a tap, whether it is one), along an axis of inputs."""
    if transposed:
        reach = o + window.padding - tap * window.dilation
        i = reach // window.stride
        return i, (reach >= 0) & (reach % window.stride == 0) & (i < size)
    else:
        i = o * window.stride - window.padding + tap * window.dilation
        return i, (i >= 0) & (i < size)


@triton.jit
def phase(first, outputs, window, transposed: tl.constexpr):
    """Of the outputs first, first + stride, ...: how many there are, and the taps that they sum.

    (count, first tap, distance of taps, taps, input read first, its step per output, per tap).
    Transposed, these are the taps that reach such outputs from an input at all; else all.
    """
    if transposed:
        residue = (first + window.padding) % window.stride
        tap = first * 0 + window.kernel
        for t in range(window.kernel):
            i = window.kernel - 1 - t
            tap = tl.where(i * window.dilation % window.stride == residue, i, tap)
        taps = tl.where(tap < window.kernel, (window.kernel - 1 - tap) // window.step + 1, 0)
        start = (first + window.padding - tap * window.dilation) // window.stride
        per_tap = window.dilation // (window.stride // window.step)
        count = (outputs - first - 1) // window.stride + 1
        return count, tap, window.step, taps, start, 1, -per_tap
    else:
        return outputs, 0, 1, window.kernel, -window.padding, window.stride, window.dilation
