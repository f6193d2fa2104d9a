"""layer_norm over the last dimensions, and add_layer_norm, of a sum that it also returns.

The statistics are float32 (float64 for float64) and not differentiable.
"""

import math

import torch

from . import _slower
from ._dense import check_dtype, check_like, check_statistics, check_weight, compute_dtype
from ._norm import gradients, save_weights
from ._op import Op, check, no_gradient_of


def _statistics(x, size, eps):
    """(the rows as they are computed with, mean, rstd)"""
    rows = x.to(compute_dtype(x)).reshape(-1, size)
    mean = rows.mean(1, keepdim=True)
    return rows, mean, ((rows - mean).square().mean(1, keepdim=True) + eps).rsqrt()


def _layer_norm_inference(x, size, weight, bias, eps):
    return _layer_norm(x, size, weight, bias, eps)[0]


def _layer_norm(x, size, weight, bias, eps):
    rows, mean, rstd = _statistics(x, size, eps)
    y = (rows - mean) * rstd
    y = y if weight is None else y * weight.reshape(-1)
    y = y if bias is None else y + bias.reshape(-1)
    y = y.reshape(x.shape).to(x.dtype)
    leading = x.shape[: _leading_rank("layer_norm", x, size)]
    return y, mean.detach().reshape(leading), rstd.detach().reshape(leading)


def _add_layer_norm(x, residual, size, weight, bias, eps):
    total = x + residual
    y, mean, rstd = _layer_norm(total, size, weight, bias, eps)
    return y, total, mean, rstd


def _add_layer_norm_inference(x, residual, size, weight, bias, eps):
    return _add_layer_norm(x, residual, size, weight, bias, eps)[:2]


def _layer_norm_backward(grad_y, x, mean, rstd, size, weight, eps, of_weights):
    # The given statistics only save time: here x gives them, so that they have derivatives.
    rows, mean, rstd = _statistics(x, size, eps)
    xhat, grad = (rows - mean) * rstd, grad_y.to(rows.dtype).reshape(-1, size)
    g = grad if weight is None else grad * weight.reshape(-1)
    g_xhat = (g * xhat).mean(1, keepdim=True)
    grad_x = (rstd * (g - g.mean(1, keepdim=True) - xhat * g_xhat)).reshape(x.shape).to(x.dtype)
    if not of_weights:
        return grad_x, rows.new_empty(0), rows.new_empty(0)
    return grad_x, (grad * xhat).sum(0), grad.sum(0)


def _leading_rank(op, x, size):
    """How many leading dimensions the rows have, the rest being `size` elements."""
    shape, rank = x.shape, x.dim()
    while rank and (rank == x.dim() or math.prod(shape[rank:]) < size):
        rank -= 1
    fits = size > 0 and rank < x.dim() and math.prod(shape[rank:]) == size
    check(fits, op, "normalized_size", size, f"the product of the last sizes of {list(shape)}")
    return rank


def _check(op, x, size, weight, bias=None):
    """The sizes of the statistics."""
    check_dtype(op, "input", x)
    rank = _leading_rank(op, x, size)
    check_weight(op, "weight", x, weight, size)
    check_weight(op, "bias", x, bias, size)
    return x.shape[:rank]


def _empty(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake(x, size, weight, bias, eps, op="layer_norm"):
    leading = _check(op, x, size, weight, bias)
    mean = x.new_empty(leading, dtype=compute_dtype(x))
    return _empty(x), mean, torch.empty_like(mean)


def _fake_add(x, residual, size, weight, bias, eps):
    op = "add_layer_norm"
    y, mean, rstd = _fake(x, size, weight, bias, eps, op)
    check_like(op, "residual", residual, x)
    return y, _empty(x), mean, rstd


def _fake_backward(grad_y, x, mean, rstd, size, weight, eps, of_weights):
    op = "layer_norm_backward"
    check_dtype(op, "input", x)
    check_like(op, "grad_y", grad_y, x)
    leading = math.prod(_check(op, x, size, weight))
    check_statistics(op, "mean", x, mean, leading)
    check_statistics(op, "rstd", x, rstd, leading)
    of_weight = x.new_empty(size if of_weights else 0, dtype=compute_dtype(x))
    return _empty(x), of_weight, torch.empty_like(of_weight)


def _save(ctx, inputs, output):
    x, ctx.size, weight, bias, ctx.eps = inputs
    save_weights(ctx, x, weight, bias, *output[1:])
    no_gradient_of(ctx, *output[1:])


def _gradients(ctx, grad_y):
    return gradients(ctx, layer_norm_backward, grad_y, (ctx.size,), (ctx.eps,))


def _backward(ctx, grad_y, *_):
    grad_x, grad_weight, grad_bias = _gradients(ctx, grad_y)
    return grad_x, None, grad_weight, grad_bias, None


def _save_add(ctx, inputs, output):
    _, _, ctx.size, weight, bias, ctx.eps = inputs
    save_weights(ctx, output[1], weight, bias, *output[2:])
    ctx.mark_non_differentiable(*output[2:])


def _backward_add(ctx, grad_y, grad_sum, *_):
    grad_x, grad_weight, grad_bias = _gradients(ctx, grad_y)
    grad_x = grad_x + grad_sum
    return grad_x, grad_x, None, grad_weight, grad_bias, None


_common = {"sample_dims": None, "sharded_dims": ()}
layer_norm_inference = Op(
    name="layer_norm_inference",
    decomposition=_layer_norm_inference,
    fake=lambda *args: _fake(*args)[0],
    slower=_slower.small,
    batched=("input",),
    **_common,
)
layer_norm = Op(
    name="layer_norm",
    decomposition=_layer_norm,
    fake=_fake,
    save=_save,
    backward=_backward,
    batched=("input",),
    slower=_slower.small_training,
    **_common,
)
layer_norm_backward = Op(
    name="layer_norm_backward",
    decomposition=_layer_norm_backward,
    fake=_fake_backward,
    batched=(),
    constants=("mean", "rstd"),
    **_common,
)
add_layer_norm_inference = Op(
    name="add_layer_norm_inference",
    decomposition=_add_layer_norm_inference,
    fake=lambda *args: _fake_add(*args)[:2],
    slower=_slower.small,
    batched=("input", "residual"),
    **_common,
)
add_layer_norm = Op(
    name="add_layer_norm",
    decomposition=_add_layer_norm,
    fake=_fake_add,
    save=_save_add,
    backward=_backward_add,
    batched=("input", "residual"),
    slower=_slower.small_training,
    **_common,
)
