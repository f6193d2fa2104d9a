"""Functions with torch.nn.functional's signatures, running torchext's kernels."""

import torch

from ..ops.adaptive_avg_pool2d import adaptive_avg_pool2d as _adaptive_avg_pool2d
from ..ops.adaptive_avg_pool2d import (
    adaptive_avg_pool2d_inference as _adaptive_avg_pool2d_inference,
)
from ..ops.avg_pool2d import avg_pool2d as _avg_pool2d
from ..ops.avg_pool2d import avg_pool2d_inference as _avg_pool2d_inference
from ..ops.max_pool2d import max_pool2d as _max_pool2d
from ..ops.max_pool2d import max_pool2d_indices as _max_pool2d_indices
from ..ops.max_pool2d import max_pool2d_inference as _max_pool2d_inference


def _pair(value):
    """Values for two axes. One int may stand for both: the ops' int[2] take it, and faster."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    return list(value) * 2 if len(value) == 1 else value


def _needs_grad(x):
    try:
        return x.requires_grad and torch.is_grad_enabled()
    except AttributeError:  # not a tensor, which the op says better
        return False


def max_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
):
    kernel_size = _pair(kernel_size)
    stride = kernel_size if stride is None or stride == [] else _pair(stride)
    arguments = (kernel_size, stride, _pair(padding), _pair(dilation), ceil_mode)
    if return_indices:
        y, offsets = _max_pool2d(input, *arguments)
        return y, _max_pool2d_indices(offsets, input.shape[-2:], *arguments)
    if _needs_grad(input):
        return _max_pool2d(input, *arguments)[0]
    return _max_pool2d_inference(input, *arguments)


def avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    kernel_size = _pair(kernel_size)
    stride = kernel_size if stride is None or stride == [] else _pair(stride)
    op = _avg_pool2d if _needs_grad(input) else _avg_pool2d_inference
    return op(
        input, kernel_size, stride, _pair(padding), ceil_mode, count_include_pad, divisor_override
    )


def adaptive_avg_pool2d(input, output_size):
    single = output_size is None or isinstance(output_size, (int, torch.SymInt))
    size = [output_size, output_size] if single else _pair(output_size)
    if None in size:  # keeps the input's size
        size = [input.shape[d] if n is None else n for d, n in zip((-2, -1), size, strict=True)]
    op = _adaptive_avg_pool2d if _needs_grad(input) else _adaptive_avg_pool2d_inference
    return op(input, size)


# torch.fx traces a call of these as one node, not their branches.
torch.fx.wrap("max_pool2d")
torch.fx.wrap("avg_pool2d")
torch.fx.wrap("adaptive_avg_pool2d")
