"""Weights for Winograd's convolution, transformed once: G w G' of each pair of channels, packed as
other weights are (_packed.py), with csrc/cpu/winograd.h's points in place of taps.

The rows of G evaluate the taps' polynomial in 0, +-sqrt(1/2), +-sqrt(2) and infinity, divided by
the products of the distances to the other points.
"""

import functools

import torch

from ._packed import pack, unpack

SIDE = 6
_FINITE = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))


@functools.cache
def _transform():
    rows = []
    for point in _FINITE:
        distance = 1.0
        for other in _FINITE:
            distance *= point - other if other != point else 1.0
        rows.append([point**power / distance for power in range(3)])
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def pack_winograd(weight):
    """A weight [O, C, 3, 3] at the points, as panels."""
    matrix = _transform().to(weight.device)
    points = torch.einsum("ih,ochw,jw->ocij", matrix, weight.double(), matrix)
    return pack(points.to(torch.promote_types(weight.dtype, torch.float32)))


def unpack_winograd(panels, out_channels, channels, dtype):
    """The weight of which `pack_winograd` made panels, but for rounding."""
    w = unpack(panels, (out_channels, channels, SIDE, SIDE), 1, torch.float64)
    matrix = torch.linalg.pinv(_transform()).to(panels.device)
    for _ in range(2):  # sides
        w = (matrix[:, :, None] * w.unsqueeze(-3)).sum(-2).mT
    return w.to(dtype)
