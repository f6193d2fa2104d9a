"""The Triton backend: each op's kernel and its host function, by the op's name in KERNELS."""

from . import (
    adaptive_avg_pool2d,
    avg_pool2d,
    conv2d,
    conv2d_backward_weight,
    conv_transpose2d,
    linear,
    max_pool2d,
)

KERNELS = {
    **max_pool2d.KERNELS,
    **avg_pool2d.KERNELS,
    **adaptive_avg_pool2d.KERNELS,
    **conv2d.KERNELS,
    **conv2d_backward_weight.KERNELS,
    **conv_transpose2d.KERNELS,
    **linear.KERNELS,
}

__all__ = ["KERNELS"]
