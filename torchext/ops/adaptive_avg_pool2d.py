"""adaptive_avg_pool2d: means over windows that tile the input; 1 x 1 is the global average."""

import torch

from ._op import Op, check
from ._pool2d import check_dtype, check_input, check_pair, empty_pooled, in_format, is_channels_last

aten = torch.ops.aten


def _adaptive_avg_pool2d(x, output_size):
    if list(output_size) == [1, 1] and x.shape[-2:].numel() > 0:  # ATen's own way to it can't be
        return x.mean((-2, -1), keepdim=True)  # exported to ONNX for channels-last images
    return aten.adaptive_avg_pool2d(x, output_size)


def _adaptive_avg_pool2d_backward(grad_y, input_size, channels_last):
    x = empty_pooled(grad_y, input_size, channels_last and grad_y.dim() == 4)
    if 0 in grad_y.shape[-2:]:  # no outputs, and ATen would divide by zero
        return torch.zeros_like(x)
    return aten._adaptive_avg_pool2d_backward(grad_y, x)


def _fake(x, output_size):
    op = "adaptive_avg_pool2d"
    check_pair(op, "output_size", output_size, 0)
    check_input(op, "input", x.shape)
    check_dtype(op, "input", x)
    return empty_pooled(x, output_size, is_channels_last(x))


def _fake_backward(grad_y, input_size, channels_last):
    op = "adaptive_avg_pool2d_backward"
    check(grad_y.dim() in (3, 4), op, "grad_y", f"{grad_y.dim()} dimensions", "3 or 4")
    check_pair(op, "input_size", input_size, 1)
    check_input(op, "input", (*grad_y.shape[:-2], *input_size))
    check_dtype(op, "grad_y", grad_y)
    return empty_pooled(grad_y, input_size, channels_last and grad_y.dim() == 4)


def _save(ctx, inputs, output):
    x, _ = inputs
    ctx.input_size = x.shape[-2:]
    ctx.channels_last = is_channels_last(x)


def _backward(ctx, grad_y):
    grad_y = in_format(grad_y, ctx.channels_last)
    grad_x = adaptive_avg_pool2d_backward(
        grad_y, ctx.input_size, ctx.channels_last, namespace=ctx.namespace
    )
    return grad_x, None


adaptive_avg_pool2d_inference = Op(
    name="adaptive_avg_pool2d_inference",
    decomposition=_adaptive_avg_pool2d,
    fake=_fake,
    sharded_dims=(0, 1),
)
adaptive_avg_pool2d = Op(
    name="adaptive_avg_pool2d",
    decomposition=_adaptive_avg_pool2d,
    fake=_fake,
    save=_save,
    backward=_backward,
    sharded_dims=(0, 1),
)
adaptive_avg_pool2d_backward = Op(
    name="adaptive_avg_pool2d_backward",
    decomposition=_adaptive_avg_pool2d_backward,
    fake=_fake_backward,
    sharded_dims=(0, 1),
)
