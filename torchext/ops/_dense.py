"""What ops that work element by element or row by row share: the rules of csrc/common/dense.h."""

import torch

from ._op import check
from ._pool2d import check_dtype, is_channels_last


def empty_as(x):
    """An uninitialised tensor like x, with its strides if x is dense."""
    like = torch.empty_like(x)
    if like.stride() == x.stride():
        return like
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty_like(x, memory_format=memory_format)


def check_like(op, argument, tensor, x, dtype=None):
    """A gradient, or a residual: of the shape, dtype (if none is given) and device of x."""
    check(tensor.shape == x.shape, op, argument, f"shape {list(tensor.shape)}", list(x.shape))
    wanted = dtype or x.dtype
    check(tensor.dtype == wanted, op, argument, f"dtype {tensor.dtype}", dtype or "the input's")
    check(
        tensor.device == x.device,
        op,
        argument,
        f"a tensor on {tensor.device}",
        f"one on {x.device}",
    )


def compute_dtype(x):
    """The type that x is computed in, of which its statistics are."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check_elements(op, argument, x, tensor, size):
    count = tensor.numel()
    check(count == size, op, argument, f"{count} elements", size)
    check(
        tensor.device == x.device,
        op,
        argument,
        f"a tensor on {tensor.device}",
        f"one on {x.device}",
    )


def check_weight(op, argument, x, weight, size):
    """A weight or bias of `size` elements, of any floating dtype."""
    if weight is not None:
        check_dtype(op, argument, weight)
        _check_elements(op, argument, x, weight, size)


def check_statistics(op, argument, x, statistics, size):
    wanted = compute_dtype(x)
    check(statistics.dtype == wanted, op, argument, f"dtype {statistics.dtype}", wanted)
    _check_elements(op, argument, x, statistics, size)


__all__ = [
    "check_dtype",
    "check_like",
    "check_statistics",
    "check_weight",
    "compute_dtype",
    "empty_as",
]
