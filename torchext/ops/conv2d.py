"""conv2d with an epilogue: activation(convolution + bias + residual)."""

from math import prod

import torch

from . import _slower
from ._activation import DECOMPOSITIONS, FUSED_IN_TRAINING, activate, gated
from ._conv2d import (
    check_bias,
    check_companion,
    check_operands,
    check_rank,
    check_shape,
    empty_image,
    output_is_channels_last,
    output_shape,
)
from ._op import Op, check
from ._packed import check_panels, unpack
from ._pool2d import check_dtype, check_pair, is_channels_last
from ._winograd import SIDE, unpack_winograd

aten = torch.ops.aten


def _conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    y = aten.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return activate(y if residual is None else y + residual, activation)


def _batched(*images):
    """Images with a batch dimension, for ATen's backward, which insists on one."""
    return [x if x is None or x.dim() == 4 else x[None] for x in images]


def _backward(grad_y, x, weight, stride, padding, dilation, groups, mask):
    bias_size = [weight.shape[0]]
    arguments = (bias_size, stride, padding, dilation, False, [0, 0], groups, mask)
    return aten.convolution_backward(grad_y, x, weight, *arguments)


def _input_shape(grad_y, weight, input_size, groups):
    return [*grad_y.shape[:-3], weight.shape[1] * groups, *input_size]


def _conv2d_backward_input(grad_y, y, weight, input_size, channels_last, *args):
    *args, groups, activation = args
    grad = gated(grad_y, y, activation)
    x = grad.new_empty(_input_shape(grad_y, weight, input_size, groups))
    (batched, x4) = _batched(grad, x)
    grad_x = _backward(batched, x4, weight, *args, groups, [True, False, False])[0]
    return grad_x.view(x.shape) if grad_x.shape != x.shape else grad_x


def _conv2d_backward_weight(grad_y, y, x, kernel_size, channels_last, *args):
    *args, groups, activation, of_bias = args
    grad, x = _batched(gated(grad_y, y, activation), x)
    weight = grad.new_empty((grad.shape[1], x.shape[1] // groups, *kernel_size))
    grads = _backward(grad, x, weight, *args, groups, [False, True, False])
    return grads[1], grad.sum((0, 2, 3)) if of_bias else grad.new_empty(0)


def _check_activation(op, activation):
    known = 0 <= activation < len(DECOMPOSITIONS)
    check(known, op, "activation", activation, "one of torchext.ops._activation")


def _check_epilogue(op, x, shape, bias, residual, activation):
    check_bias(op, bias, x, shape[-3])
    _check_activation(op, activation)
    if residual is not None:
        check_companion(op, "residual", residual, x)
        check_shape(op, "residual", residual.shape, shape)


def _fake(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    op = "conv2d"
    check_operands(op, x, weight)
    shape = output_shape(op, x.shape, weight.shape, stride, padding, dilation, groups)
    _check_epilogue(op, x, shape, bias, residual, activation)
    return empty_image(x, shape, output_is_channels_last(x, weight))


def _conv2d_packed(x, panels, weight_size, *args):
    weight = unpack(panels, weight_size, args[-2], x.dtype)
    y = _conv2d(x, weight, *args)
    return y.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else y


def _fake_packed(x, panels, weight_size, bias, residual, *args):
    op = "conv2d_packed_inference"
    *args, groups, activation = args
    check_dtype(op, "input", x)
    check(len(weight_size) == 4, op, "weight_size", f"{len(weight_size)} values", 4)
    shape = output_shape(op, x.shape, weight_size, *args, groups)
    check_panels(op, panels, x, weight_size, groups, pairs=True)
    _check_epilogue(op, x, shape, bias, residual, activation)
    return empty_image(x, shape, x.dim() == 4)


def _conv2d_winograd(x, panels, out_channels, bias, residual, padding, activation):
    weight = unpack_winograd(panels, out_channels, x.shape[1], x.dtype)
    y = _conv2d(x, weight, bias, residual, [1, 1], padding, [1, 1], 1, activation)
    return y.contiguous(memory_format=torch.channels_last)


def _fake_winograd(x, panels, out_channels, bias, residual, padding, activation):
    op = "conv2d_winograd_inference"
    check_dtype(op, "input", x)
    check(x.dim() == 4, op, "input", f"{x.dim()} dimensions", 4)
    size = (out_channels, x.shape[1], 3, 3)
    shape = output_shape(op, x.shape, size, [1, 1], padding, [1, 1], 1)
    check_panels(op, panels, x, (*size[:2], SIDE, SIDE), 1)
    _check_epilogue(op, x, shape, bias, residual, activation)
    return empty_image(x, shape, True)


def _check_gate(op, grad_y, y, activation):
    _check_activation(op, activation)
    if y is not None:
        wanted = "none, relu or relu6, whose derivative y tells"
        check(activation in FUSED_IN_TRAINING, op, "activation", activation, wanted)
        check_companion(op, "y", y, grad_y)
        check_shape(op, "y", y.shape, grad_y.shape)


def _fake_backward_input(grad_y, y, weight, input_size, channels_last, *args):
    op = "conv2d_backward_input"
    *args, groups, activation = args
    check_dtype(op, "grad_y", grad_y)
    check_companion(op, "weight", weight, grad_y)
    check_pair(op, "input_size", input_size, 0)
    check_rank(op, "grad_y", grad_y.shape)
    check(weight.dim() == 4, op, "weight", f"{weight.dim()} dimensions", 4)
    shape = _input_shape(grad_y, weight, input_size, groups)
    check_shape(op, "grad_y", grad_y.shape, output_shape(op, shape, weight.shape, *args, groups))
    _check_gate(op, grad_y, y, activation)
    return empty_image(grad_y, shape, channels_last and grad_y.dim() == 4)


def _fake_backward_weight(grad_y, y, x, kernel_size, channels_last, *args):
    op = "conv2d_backward_weight"
    *args, groups, activation, of_bias = args
    check_dtype(op, "grad_y", grad_y)
    check_companion(op, "x", x, grad_y)
    check_pair(op, "kernel_size", kernel_size, 1)
    check_rank(op, "grad_y", grad_y.shape)
    check(x.dim() == grad_y.dim(), op, "x", f"{x.dim()} dimensions", grad_y.dim())
    divides = groups >= 1 and x.shape[-3] % groups == 0
    check(divides, op, "groups", groups, f"a divisor of the channels, {x.shape[-3]}")
    weight = [grad_y.shape[-3], x.shape[-3] // groups, *kernel_size]
    check_shape(op, "grad_y", grad_y.shape, output_shape(op, x.shape, weight, *args, groups))
    _check_gate(op, grad_y, y, activation)
    return empty_image(grad_y, weight, channels_last), grad_y.new_empty(weight[0] if of_bias else 0)


def _save(ctx, inputs, output):
    x, weight, _, _, *ctx.arguments = inputs
    fused = ctx.arguments[-1] != 0
    ctx.save_for_backward(x, weight, output if fused else None)


def _conv2d_gradients(ctx, grad_y):
    x, weight, y = ctx.saved_tensors
    wants_x, wants_weight, wants_bias, wants_residual, *_ = ctx.needs_input_grad
    grad_x = grad_weight = grad_bias = grad_residual = None
    if wants_x:
        grad_x = conv2d_backward_input(
            grad_y,
            y,
            weight,
            x.shape[-2:],
            is_channels_last(x),
            *ctx.arguments,
            namespace=ctx.namespace,
        )
    if wants_weight or wants_bias:
        grad_weight, grad_bias = conv2d_backward_weight(
            grad_y,
            y,
            x,
            weight.shape[-2:],
            is_channels_last(weight),
            *ctx.arguments,
            wants_bias,
            namespace=ctx.namespace,
        )
    if wants_residual:
        grad_residual = gated(grad_y, y, ctx.arguments[-1])
    return (
        grad_x,
        grad_weight if wants_weight else None,
        grad_bias if wants_bias else None,
        grad_residual,
        *(None for _ in ctx.arguments),
    )


def _flops(weight, spatial, batch):
    return 2 * prod(weight) * prod(spatial) * prod(batch)


def _flops_backward_weight(grad_y, y, x, kernel_size, channels_last, *args):
    weight = (grad_y[-3], x[-3], *kernel_size)  # torch's counter disregards groups here
    return _flops(weight, grad_y[-2:], grad_y[:-3])


def _flops_forward(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    shape = output_shape("conv2d", x, weight, stride, padding, dilation, groups)
    return _flops(weight, shape[-2:], shape[:-3])


_COMMON = {
    "decomposition": _conv2d,
    "fake": _fake,
    "autocast": ("input", "weight", "bias", "residual"),
    "batched": ("input", "residual"),
    "flops": _flops_forward,
    "slower": _slower.product,
}
conv2d_inference = Op(name="conv2d_inference", **_COMMON)
conv2d_packed_inference = Op(
    name="conv2d_packed_inference",
    decomposition=_conv2d_packed,
    fake=_fake_packed,
    constants=("panels",),
    batched=("input", "residual"),
    flops=lambda x, panels, size, *args: _flops_forward(x, size, *args),
)
conv2d_winograd_inference = Op(
    name="conv2d_winograd_inference",
    decomposition=_conv2d_winograd,
    fake=_fake_winograd,
    constants=("panels",),
    batched=("input", "residual"),
    flops=lambda x, panels, out, bias, residual, padding, activation: _flops_forward(
        x, (out, x[1], 3, 3), bias, residual, [1, 1], padding, [1, 1], 1, activation
    ),
)
conv2d = Op(name="conv2d", save=_save, backward=_conv2d_gradients, **_COMMON)
conv2d_backward_input = Op(
    name="conv2d_backward_input",
    decomposition=_conv2d_backward_input,
    fake=_fake_backward_input,
    batched=("grad_y", "y"),
    constants=("y",),  # its activation's derivative jumps, or is constant
    flops=lambda grad_y, y, weight, *args: _flops(weight, grad_y[-2:], grad_y[:-3]),
    slower=_slower.product,
)
conv2d_backward_weight = Op(
    name="conv2d_backward_weight",
    decomposition=_conv2d_backward_weight,
    fake=_fake_backward_weight,
    batched=(),
    constants=("y",),
    sharded_dims=(),
    flops=_flops_backward_weight,
    slower=_slower.product,
)


def run(x, weight, bias, residual, stride, padding, dilation, groups, activation, needs_grad):
    """conv2d's op for the occasion; where training needs more than the result, in two steps."""
    arguments = (stride, padding, dilation, groups)
    if not needs_grad:
        return conv2d_inference(x, weight, bias, residual, *arguments, activation)
    if activation in FUSED_IN_TRAINING:
        return conv2d(x, weight, bias, residual, *arguments, activation)
    return activate(conv2d(x, weight, bias, residual, *arguments, 0), activation)
