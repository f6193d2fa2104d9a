"""conv_transpose2d: conv2d's gradient of x as an op of its own, with a bias."""

import torch
from torch.nn.functional import pad

from . import _slower
from ._conv2d import (
    check_bias,
    check_operands,
    empty_image,
    output_is_channels_last,
    transposed_shape,
)
from ._op import Op
from ._pool2d import is_channels_last
from .conv2d import _flops, conv2d, conv2d_backward_weight

aten = torch.ops.aten


def _conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation):
    return aten.conv_transpose2d.input(
        x, weight, bias, stride, padding, output_padding, groups, dilation
    )


def _fake(x, weight, bias, stride, padding, output_padding, groups, dilation):
    op = "conv_transpose2d"
    check_operands(op, x, weight)
    arguments = (stride, padding, output_padding, groups, dilation)
    shape = transposed_shape(op, x.shape, weight.shape, *arguments)
    check_bias(op, bias, x, shape[-3])
    return empty_image(x, shape, output_is_channels_last(x, weight))


def _save(ctx, inputs, output):
    x, weight, _, *ctx.arguments = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad_y):
    x, weight = ctx.saved_tensors
    stride, padding, output_padding, groups, dilation = ctx.arguments
    # Where the output is padded by strides, conv2d makes so many more pixels of it than x has.
    more_h, more_w = (p // s for p, s in zip(output_padding, stride, strict=True))
    arguments = (stride, padding, dilation, groups, 0)
    wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
    grad_x = grad_weight = grad_bias = None
    if wants_x:  # the forward convolution
        grad_x = conv2d(grad_y, weight, None, None, *arguments, namespace=ctx.namespace)
        if more_h or more_w:
            grad_x = grad_x[..., : x.shape[-2], : x.shape[-1]]
    if wants_weight:  # its output is this one's input
        grad_weight, _ = conv2d_backward_weight(
            pad(x, (0, more_w, 0, more_h)) if more_h or more_w else x,
            None,
            grad_y,
            weight.shape[-2:],
            is_channels_last(weight),
            *arguments,
            False,
            namespace=ctx.namespace,
        )
    if wants_bias:
        grad_bias = grad_y.sum([d for d in range(grad_y.dim()) if d != grad_y.dim() - 3])
    return grad_x, grad_weight, grad_bias, *(None for _ in ctx.arguments)


_COMMON = {
    "decomposition": _conv_transpose2d,
    "fake": _fake,
    "autocast": ("input", "weight", "bias"),
    "batched": ("input",),
    "flops": lambda x, weight, *args: _flops(weight, x[-2:], x[:-3]),
    "slower": _slower.product,
}
conv_transpose2d_inference = Op(name="conv_transpose2d_inference", **_COMMON)
conv_transpose2d = Op(name="conv_transpose2d", save=_save, backward=_backward, **_COMMON)
