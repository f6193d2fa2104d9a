"""Weights packed once, for accelerated models: in panels of columns, as csrc/cpu/product.h says.

[group, panel, tap, input channel] rows of the columns of a panel, zeros beyond the last one, and a
row more, which kernels may read; of the type computed in. In pairs, for CPUs that multiply them, a
row is of two channels, and has two bf16 for each column.
"""

from math import prod

import torch

from .. import _load
from ._op import check
from ._pool2d import check_same_device


def _computed_in(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def _columns(dtype):
    return 16 if dtype == torch.float64 else 32


def _blocks(size, groups, columns):
    return -(-(size[0] // groups) // columns)


def pack(weight, groups=1, in_one=1):
    """A weight [O, C / groups, ...] as panels; in_one=2: in pairs, where C / groups is even."""
    columns, (out, channels, *taps) = _columns(weight.dtype), weight.shape
    w = weight.reshape(groups, out // groups, channels, prod(taps))
    w = w.to(_computed_in(weight.dtype) if in_one == 1 else torch.bfloat16)
    w = torch.nn.functional.pad(w, (0, 0, 0, 0, 0, -w.shape[1] % columns))
    w = w.unflatten(1, (-1, columns)).unflatten(3, (-1, in_one)).permute(0, 1, 5, 3, 2, 4)
    return torch.nn.functional.pad(w.reshape(-1, columns * in_one), (0, 0, 0, 1))


def suits_pairs(dtype, channels):
    """Whether a product of a weight's so many channels can be of pairs, on this machine."""
    return dtype == torch.bfloat16 and channels % 2 == 0 and _load.multiplies_pairs()


def unpack(panels, size, groups, dtype):
    """The weight of this size of which `pack` made panels."""
    in_one = 2 if panels.dtype == torch.bfloat16 else 1
    columns, (out, channels, *taps) = panels.shape[1] // in_one, size
    blocks = _blocks(size, groups, columns)
    shape = (groups, blocks, prod(taps), channels // in_one, columns, in_one)
    w = panels[:-1].reshape(shape).permute(0, 1, 4, 3, 5, 2).flatten(1, 2)
    return w[:, : out // groups].reshape(out, channels, *taps).to(dtype)


def check_panels(op, panels, x, size, groups, pairs=False):
    """pairs: whether they may be in pairs."""
    check_same_device(op, "panels", x, panels)
    dtype, columns = _computed_in(x.dtype), _columns(x.dtype)
    paired = pairs and size[1] % 2 == 0 and panels.dtype == x.dtype == torch.bfloat16
    check(paired or panels.dtype == dtype, op, "panels", f"dtype {panels.dtype}", dtype)
    in_one = 2 if paired else 1
    rows = groups * _blocks(size, groups, columns) * prod(size[1:]) // in_one
    expected = [rows + 1, columns * in_one]
    fits = panels.dim() == 2 and all(a == b for a, b in zip(panels.shape, expected, strict=True))
    check(fits, op, "panels", f"shape {list(panels.shape)}", expected)
