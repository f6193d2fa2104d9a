"""batch_norm: each channel normalised over the batch, or by running statistics.

Functional: training returns new running statistics, which the module stores. All statistics are
float32 (float64 for float64) and not differentiable.
"""

import torch

from . import _channel_norm as norm
from . import _slower
from ._dense import check_weight, compute_dtype
from ._norm import gradients, save_weights
from ._op import Op, check, no_gradient_of


def _of_batch(x):
    """(mean, sum of squared distances from it, how many values) of each channel"""
    wide = x.to(compute_dtype(x))
    dims = [d for d in range(x.dim()) if d != 1]
    mean = wide.mean(dims)
    return mean, (wide - norm.per_channel(x, mean)).square().sum(dims), x[:, :1].numel()


def _normalised(x, mean, rstd):
    return (x.to(mean.dtype) - norm.per_channel(x, mean)) * norm.per_channel(x, rstd)


def _batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps):
    new = [torch.empty(0, dtype=compute_dtype(x), device=x.device) for _ in range(2)]
    if training:
        mean, squares, count = _of_batch(x)
        rstd = (squares / count + eps).rsqrt()
        if running_mean is not None:
            pairs = (running_mean, mean), (running_var, squares / (count - 1))
            new = [(1 - momentum) * old + momentum * now.detach() for old, now in pairs]
    else:
        mean, rstd = running_mean.to(new[0].dtype), (running_var.to(new[0].dtype) + eps).rsqrt()
    y = norm.affine(x, _normalised(x, mean, rstd), weight, bias)
    return y, mean.detach().clone(), rstd.detach(), *(t.to(new[0].dtype) for t in new)


def _batch_norm_backward(grad_y, x, mean, rstd, weight, training, eps, of_weights):
    if training:  # the given statistics only save time: here x gives them, with derivatives
        mean, squares, count = _of_batch(x)
        rstd = (squares / count + eps).rsqrt()
    xhat, grad = _normalised(x, mean, rstd), grad_y.to(mean.dtype)
    g = grad if weight is None else grad * norm.per_channel(x, weight)
    dims = [d for d in range(x.dim()) if d != 1]
    inner = g
    if training:
        inner = g - g.mean(dims, keepdim=True) - xhat * (g * xhat).mean(dims, keepdim=True)
    grad_x = norm.in_format_of(x, (norm.per_channel(x, rstd) * inner).to(x.dtype))
    return grad_x, *norm.of_the_weights(x, grad, xhat, of_weights)


def _fake(x, weight, bias, running_mean, running_var, training, momentum, eps):
    op = "batch_norm"
    norm.check_channels(op, x)
    has_mean, has_var = running_mean is not None, running_var is not None
    got = "one of running_mean and running_var"
    check(has_mean == has_var, op, "running_var", got, "both or neither")
    check(training or has_mean, op, "running_mean", "none", "one outside training")
    vectors = zip(
        ("weight", "bias", "running_mean", "running_var"),
        (weight, bias, running_mean, running_var),
        strict=True,
    )
    for name, vector in vectors:
        check_weight(op, name, x, vector, x.shape[1])
    new = x.shape[1] if training and has_mean else 0
    sizes = (x.shape[1], x.shape[1], new, new)
    return norm.empty_like(x), *(x.new_empty(n, dtype=compute_dtype(x)) for n in sizes)


def _fake_backward(grad_y, x, mean, rstd, weight, training, eps, of_weights):
    op = "batch_norm_backward"
    norm.check_channels(op, x)
    return norm.fake_backward(op, grad_y, x, mean, rstd, weight, x.shape[1], of_weights)


def _save(ctx, inputs, output):
    x, weight, bias, _, _, ctx.training, _, ctx.eps = inputs
    _, mean, rstd, *new = output
    no_gradient_of(ctx, mean, rstd, *new)
    save_weights(ctx, x, weight, bias, mean, rstd)


def _backward(ctx, grad_y, *_):
    grads = gradients(ctx, batch_norm_backward, grad_y, (), (ctx.training, ctx.eps))
    return *grads, None, None, None, None, None


_common = {"sample_dims": None, "batched": (), "sharded_dims": ()}
batch_norm_inference = Op(
    name="batch_norm_inference",
    decomposition=lambda *args: _batch_norm(*args)[0],
    fake=lambda *args: _fake(*args)[0],
    slower=_slower.small,
    **_common,
)
batch_norm = Op(
    name="batch_norm",
    decomposition=_batch_norm,
    fake=_fake,
    save=_save,
    backward=_backward,
    constants=("running_mean", "running_var"),
    slower=_slower.small_training,
    **_common,
)
batch_norm_backward = Op(
    name="batch_norm_backward",
    decomposition=_batch_norm_backward,
    fake=_fake_backward,
    constants=("mean", "rstd"),
    **_common,
)
