"""The Triton backend: each op's kernel and its host function, by the op's name in KERNELS."""

from . import adaptive_avg_pool2d, avg_pool2d, max_pool2d

KERNELS = {**max_pool2d.KERNELS, **avg_pool2d.KERNELS, **adaptive_avg_pool2d.KERNELS}

__all__ = ["KERNELS"]
