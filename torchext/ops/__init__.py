"""The ops: one file each. `OPS` lists them all by name."""

from . import (
    _triton,
    adaptive_avg_pool2d,
    avg_pool2d,
    conv2d,
    conv_transpose2d,
    linear,
    max_pool2d,
)
from ._op import OPS, Op

_triton.register_for_cuda()

__all__ = [
    "OPS",
    "Op",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "conv2d",
    "conv_transpose2d",
    "linear",
    "max_pool2d",
]
