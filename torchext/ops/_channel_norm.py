"""What batch_norm and group_norm share: checks and empty results."""

import torch

from ._dense import check_dtype, check_like, check_statistics, check_weight, compute_dtype
from ._op import check
from ._pool2d import is_channels_last


def per_channel(x, vector):
    """A vector over the channels of x, to broadcast with x."""
    return vector.reshape(-1, *(1,) * (x.dim() - 2))


def affine(x, xhat, weight, bias):
    """xhat * weight + bias, as x is stored."""
    y = xhat if weight is None else xhat * per_channel(x, weight)
    y = y if bias is None else y + per_channel(x, bias)
    return in_format_of(x, y.to(x.dtype))


def in_format_of(x, y):
    return y.contiguous(memory_format=memory_format_of(x))


def memory_format_of(x):
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def of_the_weights(x, grad, xhat, of_weights):
    """(grad_weight, grad_bias)"""
    if not of_weights:
        return grad.new_empty(0), grad.new_empty(0)
    dims = [d for d in range(x.dim()) if d != 1]
    return (grad * xhat).sum(dims), grad.sum(dims)


def check_channels(op, x):
    check(x.dim() >= 2, op, "input", f"{x.dim()} dimensions", "at least 2 (N, C, ...)")
    check_dtype(op, "input", x)
    for d in range(1, x.dim()):
        check(x.shape[d] > 0, op, "input", f"size 0 in dimension {d}", "only an empty batch")


def empty_like(x):
    return torch.empty_like(x, memory_format=memory_format_of(x))


def fake_backward(op, grad_y, x, mean, rstd, weight, sets, of_weights):
    """The results of a backward op, everything checked; `sets` is how many statistics there are."""
    check_like(op, "grad_y", grad_y, x)
    check_statistics(op, "mean", x, mean, sets)
    check_statistics(op, "rstd", x, rstd, sets)
    check_weight(op, "weight", x, weight, x.shape[1])
    grad_weight = x.new_empty(x.shape[1] if of_weights else 0, dtype=compute_dtype(x))
    return empty_like(x), grad_weight, torch.empty_like(grad_weight)
