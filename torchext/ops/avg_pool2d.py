"""avg_pool2d: the mean of each window, summed in float32 (float64 for float64)."""

import torch

from ._op import Op, check
from ._pool2d import (
    check_dtype,
    check_input,
    check_pair,
    empty_pooled,
    in_format,
    is_channels_last,
    pooled_size,
)

aten = torch.ops.aten


def _avg_pool2d(
    x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None
):
    return aten.avg_pool2d(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _avg_pool2d_backward(grad_y, input_size, channels_last, *args):
    x = empty_pooled(grad_y, input_size, channels_last and grad_y.dim() == 4)
    return aten.avg_pool2d_backward(grad_y, x, *args)


def _pooled_size(op, shape, kernel_size, stride, padding, ceil_mode, divisor_override):
    check(divisor_override != 0, op, "divisor_override", 0, "another value")
    return pooled_size(op, shape, kernel_size, stride, padding, [1, 1], ceil_mode)


def _fake(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None):
    op = "avg_pool2d"
    size = _pooled_size(op, x.shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    check_dtype(op, "input", x)
    return empty_pooled(x, size, is_channels_last(x))


def _fake_backward(
    grad_y,
    input_size,
    channels_last,
    kernel_size,
    stride,
    padding,
    ceil_mode,
    count_include_pad,
    divisor_override=None,
):
    op = "avg_pool2d_backward"
    check_pair(op, "input_size", input_size, 1)
    check_input(op, "grad_y", grad_y.shape)
    shape = (*grad_y.shape[:-2], *input_size)
    size = _pooled_size(op, shape, kernel_size, stride, padding, ceil_mode, divisor_override)
    check(tuple(grad_y.shape[-2:]) == tuple(size), op, "grad_y", list(grad_y.shape), size)
    check_dtype(op, "grad_y", grad_y)
    return empty_pooled(grad_y, input_size, channels_last and grad_y.dim() == 4)


def _save(ctx, inputs, output):
    x, *ctx.arguments = inputs
    ctx.input_size = x.shape[-2:]
    ctx.channels_last = is_channels_last(x)


def _backward(ctx, grad_y):
    grad_y = in_format(grad_y, ctx.channels_last)
    grad_x = avg_pool2d_backward(
        grad_y, ctx.input_size, ctx.channels_last, *ctx.arguments, namespace=ctx.namespace
    )
    return grad_x, *(None for _ in ctx.arguments)


avg_pool2d_inference = Op(
    name="avg_pool2d_inference", pairs=3, decomposition=_avg_pool2d, fake=_fake, sharded_dims=(0, 1)
)
avg_pool2d = Op(
    name="avg_pool2d",
    pairs=3,
    decomposition=_avg_pool2d,
    fake=_fake,
    save=_save,
    backward=_backward,
    sharded_dims=(0, 1),
)
avg_pool2d_backward = Op(
    name="avg_pool2d_backward",
    decomposition=_avg_pool2d_backward,
    fake=_fake_backward,
    sharded_dims=(0, 1),
)
