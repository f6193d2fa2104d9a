"""conv_bn_act: activation(batch_norm(conv2d(input)) + residual), the block of most CNNs.

Outside training it is one convolution whose sums are scaled and shifted. Functional: training
returns new running statistics, which the module stores; z, the convolution's result, is saved for
the gradient.
"""

import torch

from . import _slower, batch_norm, conv2d
from ._activation import KINDS, activate, activate_backward, derivative_argument
from ._channel_norm import empty_like as empty_z
from ._channel_norm import in_format_of, per_channel
from ._conv2d import (
    check_bias,
    check_companion,
    check_operands,
    check_shape,
    empty_image,
    output_is_channels_last,
    output_shape,
)
from ._dense import check_dtype, check_like, check_statistics, check_weight, compute_dtype
from ._op import Op, check, no_gradient_of
from ._pool2d import is_channels_last

aten = torch.ops.aten


def _conv_bn_act(x, weight, bias, gamma, beta, running_mean, running_var, residual, *args):
    training, momentum, eps, *geometry, activation = args
    z = aten.conv2d(x, weight, bias, *geometry)
    arguments = (gamma, beta, running_mean, running_var, training, momentum, eps)
    u, *statistics = batch_norm.batch_norm.decomposition(z, *arguments)
    y = activate(u if residual is None else u + residual, activation)
    return y, z.detach(), *statistics


def _conv_bn_act_backward(grad_y, z, residual, mean, rstd, gamma, beta, training, eps, *args):
    activation, of_residual = args
    norm = batch_norm.batch_norm.decomposition
    if training:  # the given statistics only save time: here z gives them, with derivatives
        u, mean, rstd, *_ = norm(z, gamma, beta, None, None, True, 0.0, eps)
    else:
        scale = rstd if gamma is None else rstd * gamma
        u = (z.to(mean.dtype) - per_channel(z, mean)) * per_channel(z, scale)
        u = (u if beta is None else u + per_channel(z, beta)).to(z.dtype)
    u = u if residual is None else u + residual
    grad = activate_backward(grad_y, derivative_argument(u, activation), activation)
    grad = in_format_of(z, grad)
    arguments = (grad, z, mean, rstd, gamma, training, eps, True)
    grad_z, *grads = batch_norm.batch_norm_backward.decomposition(*arguments)
    return grad_z, grad.clone() if of_residual else grad.new_empty(0), *grads


def _check_activation(op, activation):
    known = 0 <= activation < len(KINDS)
    check(known, op, "activation", activation, "one of torchext.ops._activation")


def check_norm(op, x, channels, gamma, beta, running_mean, running_var, training):
    vectors = {"gamma": gamma, "beta": beta}
    vectors |= {"running_mean": running_mean, "running_var": running_var}
    for name, vector in vectors.items():
        check_weight(op, name, x, vector, channels)
    has_mean, has_var = running_mean is not None, running_var is not None
    got = "one of running_mean and running_var"
    check(has_mean == has_var, op, "running_var", got, "both or neither")
    check(training or has_mean, op, "running_mean", "none", "one outside training")


def _fake(x, weight, bias, gamma, beta, running_mean, running_var, residual, *args):
    op = "conv_bn_act"
    training, _, _, *geometry, activation = args
    check_operands(op, x, weight)
    shape = output_shape(op, x.shape, weight.shape, *geometry)
    _check_activation(op, activation)
    check(x.dim() == 4, op, "input", f"{x.dim()} dimensions", "4 (N, C, H, W)")
    check_norm(op, x, shape[1], gamma, beta, running_mean, running_var, training)
    check_bias(op, bias, x, shape[1])
    if residual is not None:
        check_companion(op, "residual", residual, x)
        check_shape(op, "residual", residual.shape, shape)
    new = shape[1] if training and running_mean is not None else 0
    y, z = (empty_image(x, shape, output_is_channels_last(x, weight)) for _ in range(2))
    sizes = (shape[1], shape[1], new, new)
    return y, z, *(x.new_empty(n, dtype=compute_dtype(x)) for n in sizes)


def _fake_backward(grad_y, z, residual, mean, rstd, gamma, beta, training, eps, *args):
    op = "conv_bn_act_backward"
    activation, of_residual = args
    check(z.dim() == 4, op, "z", f"{z.dim()} dimensions", "4 (N, C, H, W)")
    for d in range(1, 4):
        check(z.shape[d] > 0, op, "z", f"size 0 in dimension {d}", "only the batch to be empty")
    check_dtype(op, "z", z)
    _check_activation(op, activation)
    check_like(op, "grad_y", grad_y, z)
    if residual is not None:
        check_like(op, "residual", residual, z)
    check_statistics(op, "mean", z, mean, z.shape[1])
    check_statistics(op, "rstd", z, rstd, z.shape[1])
    check_weight(op, "gamma", z, gamma, z.shape[1])
    check_weight(op, "beta", z, beta, z.shape[1])
    grads = (z.new_empty(z.shape[1], dtype=compute_dtype(z)) for _ in range(2))
    return empty_z(z), empty_z(z) if of_residual else z.new_empty(0), *grads


def _save(ctx, inputs, output):
    x, weight, bias, gamma, beta, _, _, residual, ctx.training, _, ctx.eps, *rest = inputs
    *ctx.geometry, ctx.activation = rest
    _, z, mean, rstd, *new = output
    no_gradient_of(ctx, z, mean, rstd, *new)
    gated = residual if ctx.activation != KINDS["none"] else None  # its values don't matter then
    ctx.save_for_backward(x, weight, bias, gamma, beta, gated, z, mean, rstd)


def _backward(ctx, grad_y, *_):
    """Two passes over grad_y and z, one of them writing, then conv2d's two gradients."""
    if grad_y is None:  # y took no part in what is differentiated
        return (None,) * 16
    x, weight, bias, gamma, beta, residual, z, mean, rstd = ctx.saved_tensors
    where, geometry = {"namespace": ctx.namespace}, ctx.geometry
    if torch.is_grad_enabled():  # a second derivative goes through z
        z = conv2d.conv2d(x, weight, bias, None, *geometry, 0, **where)
    wanted, has_gate = ctx.needs_input_grad, ctx.activation != KINDS["none"]
    arguments = (residual, mean, rstd, gamma, beta, ctx.training, ctx.eps, ctx.activation)
    grad_z, grad_residual, grad_gamma, grad_beta = conv_bn_act_backward(
        grad_y, z, *arguments, wanted[7] and has_gate, **where
    )
    grad_x = grad_weight = grad_bias = None
    if wanted[0]:
        like = (x.shape[-2:], is_channels_last(x))
        grad_x = conv2d.conv2d_backward_input(grad_z, None, weight, *like, *geometry, 0, **where)
    if wanted[1] or wanted[2]:
        like = (weight.shape[-2:], is_channels_last(weight))
        grad_weight, grad_bias = conv2d.conv2d_backward_weight(
            grad_z, None, x, *like, *geometry, 0, wanted[2], **where
        )
    return (
        grad_x,
        grad_weight if wanted[1] else None,
        grad_bias if wanted[2] else None,
        grad_gamma.to(gamma.dtype) if wanted[3] else None,
        grad_beta.to(beta.dtype) if wanted[4] else None,
        None,
        None,
        (grad_residual if has_gate else grad_y) if wanted[7] else None,
        *(None for _ in range(8)),
    )


def _flops(x, weight, bias, gamma, beta, running_mean, running_var, residual, *args):
    return conv2d.conv2d.flops(x, weight, bias, residual, *args[3:])


_COMMON = {
    "autocast": ("input", "weight", "bias", "residual"),
    "batched": (),
    "sharded_dims": (),
    "slower": _slower.product,
}
conv_bn_act_inference = Op(
    name="conv_bn_act_inference",
    decomposition=lambda *args: _conv_bn_act(*args)[0],
    fake=lambda *args: _fake(*args)[0],
    flops=_flops,
    **_COMMON,
)
conv_bn_act = Op(
    name="conv_bn_act",
    decomposition=_conv_bn_act,
    fake=_fake,
    save=_save,
    backward=_backward,
    constants=("running_mean", "running_var"),
    flops=_flops,
    **_COMMON,
)
conv_bn_act_backward = Op(
    name="conv_bn_act_backward",
    decomposition=_conv_bn_act_backward,
    fake=_fake_backward,
    constants=("mean", "rstd"),
    batched=(),
    sharded_dims=(),
)


def run(x, weight, bias, gamma, beta, running_mean, running_var, residual, *args, needs_grad):
    """(y, new running mean, new running variance); the latter empty where none are to be stored."""
    training = args[0]
    arguments = (x, weight, bias, gamma, beta, running_mean, running_var, residual, *args)
    if not needs_grad and not (training and running_mean is not None):
        y = conv_bn_act_inference(*arguments)
        return y, None, None
    y, _, _, _, *new = conv_bn_act(*arguments)
    return y, *new
