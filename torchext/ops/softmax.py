"""softmax and log_softmax over one dimension, computed in float32 (float64 for float64)."""

import torch

from . import _slower
from ._dense import check_dtype, check_like, compute_dtype
from ._op import Op, check
from ._pool2d import is_channels_last


def _softmax(x, dim, log):
    wide = x.to(compute_dtype(x))
    y = (torch.log_softmax(wide, dim) if log else torch.softmax(wide, dim)).to(x.dtype)
    return y.contiguous(memory_format=_memory_format(x, dim))


def _softmax_backward(grad_y, y, dim, log):
    wide, g = y.to(compute_dtype(y)), grad_y.to(compute_dtype(y))
    if log:
        grad_x = g - wide.exp() * g.sum(dim, keepdim=True)
    else:
        grad_x = wide * (g - (g * wide).sum(dim, keepdim=True))
    return grad_x.to(y.dtype).contiguous(memory_format=_memory_format(y, dim))


def _memory_format(x, dim):
    """Of the result: channels_last images keep theirs where the channels are the rows."""
    rows = dim % max(x.dim(), 1) == 1 and is_channels_last(x)
    return torch.channels_last if rows else torch.contiguous_format


def _check_dim(op, x, dim):
    rank = max(x.dim(), 1)
    check(-rank <= dim < rank, op, "dim", dim, f"one of the {rank} dimensions")


def _fake(x, dim, log):
    check_dtype("softmax", "input", x)
    _check_dim("softmax", x, dim)
    return torch.empty_like(x, memory_format=_memory_format(x, dim))


def _fake_backward(grad_y, y, dim, log):
    op = "softmax_backward"
    check_dtype(op, "y", y)
    _check_dim(op, y, dim)
    check_like(op, "grad_y", grad_y, y)
    return torch.empty_like(y, memory_format=_memory_format(y, dim))


def _save(ctx, inputs, output):
    _, *ctx.arguments = inputs
    ctx.save_for_backward(output)


def _backward(ctx, grad_y):
    (y,) = ctx.saved_tensors
    return softmax_backward(grad_y, y, *ctx.arguments, namespace=ctx.namespace), None, None


_common = {"sample_dims": None, "batched": (), "sharded_dims": ()}
softmax_inference = Op(
    name="softmax_inference",
    decomposition=_softmax,
    fake=_fake,
    slower=_slower.small,
    **_common,
)
softmax = Op(
    name="softmax",
    decomposition=_softmax,
    fake=_fake,
    save=_save,
    backward=_backward,
    slower=_slower.small_training,
    **_common,
)
softmax_backward = Op(
    name="softmax_backward",
    decomposition=_softmax_backward,
    fake=_fake_backward,
    **_common,
)
