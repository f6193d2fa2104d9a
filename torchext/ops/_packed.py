"""Weights packed once, for accelerated models: in panels of columns, as csrc/cpu/product.h says.

[group, panel, tap, input channel] rows of the columns of a panel, zeros beyond the last one, and a
row more, which kernels may read; of the type computed in.
"""

from math import prod

import torch

from ._op import check
from ._pool2d import check_same_device


def _computed_in(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def _columns(dtype):
    return 16 if dtype == torch.float64 else 32


def _blocks(size, groups, columns):
    return -(-(size[0] // groups) // columns)


def pack(weight, groups=1):
    """A weight [O, C / groups, ...] as panels."""
    columns, (out, channels, *taps) = _columns(weight.dtype), weight.shape
    w = weight.reshape(groups, out // groups, channels, prod(taps)).to(_computed_in(weight.dtype))
    w = torch.nn.functional.pad(w, (0, 0, 0, 0, 0, -w.shape[1] % columns))
    w = w.unflatten(1, (-1, columns)).permute(0, 1, 4, 3, 2).reshape(-1, columns)
    return torch.nn.functional.pad(w, (0, 0, 0, 1))


def unpack(panels, size, groups, dtype):
    """The weight of this size of which `pack` made panels."""
    columns, (out, channels, *taps) = panels.shape[1], size
    shape = (groups, _blocks(size, groups, columns), prod(taps), channels, columns)
    w = panels[:-1].reshape(shape).permute(0, 1, 4, 3, 2).flatten(1, 2)
    return w[:, : out // groups].reshape(out, channels, *taps).to(dtype)


def check_panels(op, panels, x, size, groups):
    check_same_device(op, "panels", x, panels)
    dtype, columns = _computed_in(x.dtype), _columns(x.dtype)
    check(panels.dtype == dtype, op, "panels", f"dtype {panels.dtype}", dtype)
    expected = [groups * _blocks(size, groups, columns) * prod(size[1:]) + 1, columns]
    fits = panels.dim() == 2 and all(a == b for a, b in zip(panels.shape, expected, strict=True))
    check(fits, op, "panels", f"shape {list(panels.shape)}", expected)
