"""max_pool2d: the maximum of each window. Training also saves which tap won, as one byte."""

import torch

from ._op import Op, check, no_gradient_of
from ._pool2d import (
    check_dtype,
    check_input,
    check_pair,
    check_same_device,
    empty_pooled,
    in_format,
    is_channels_last,
    pooled_size,
    positions,
    window_in_padding,
)

aten = torch.ops.aten


def offset_dtype(kernel_size):
    """One byte tells up to 256 taps apart; larger windows take four."""
    taps = kernel_size[0] * kernel_size[1]
    check(taps < 2**31, "max_pool2d", "kernel_size", f"a window of {taps} taps", "fewer than 2^31")
    return torch.uint8 if taps <= 256 else torch.int32


def _safe(x, kernel_size, stride, padding, dilation, ceil_mode):
    """(output size, x, padding) with which torch's kernel does not write out of bounds."""
    size = pooled_size("max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    axes = zip(x.shape[-2:], size, kernel_size, stride, padding, dilation, strict=True)
    if not any(window_in_padding(*axis) for axis in axes):
        return size, x, padding
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    pads = (padding[1], padding[1], padding[0], padding[0])
    return size, torch.nn.functional.pad(x, pads, value=lowest), [0, 0]


def _max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode):
    """(y, offsets): torch's indices, told as taps of their windows."""
    size, x, padding = _safe(x, kernel_size, stride, padding, dilation, ceil_mode)
    y, indices = aten.max_pool2d_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode)
    y, indices = y[..., : size[0], : size[1]], indices[..., : size[0], : size[1]]
    rows = positions(size[0], stride[0], padding[0], x.device)[:, None]
    columns = positions(size[1], stride[1], padding[1], x.device)
    i = (indices // x.shape[-1] - rows) // dilation[0]
    j = (indices % x.shape[-1] - columns) // dilation[1]
    return y, (i * kernel_size[1] + j).to(offset_dtype(kernel_size))


def _max_pool2d_inference(x, kernel_size, stride, padding, dilation, ceil_mode):
    size, x, padding = _safe(x, kernel_size, stride, padding, dilation, ceil_mode)
    y = aten.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
    return y[..., : size[0], : size[1]]


def _coordinates(offsets, kernel_size, stride, padding, dilation):
    """The input row and column that each offset points at, inside the input or not."""
    rows = positions(offsets.shape[-2], stride[0], padding[0], offsets.device)[:, None]
    columns = positions(offsets.shape[-1], stride[1], padding[1], offsets.device)
    tap = offsets.long()
    return (
        rows + tap // kernel_size[1] * dilation[0],
        columns + tap % kernel_size[1] * dilation[1],
    )


def _max_pool2d_indices(offsets, input_size, kernel_size, stride, padding, dilation, ceil_mode):
    h, w = _coordinates(offsets, kernel_size, stride, padding, dilation)
    return h.clamp(0, input_size[0] - 1) * input_size[1] + w.clamp(0, input_size[1] - 1)


def _max_pool2d_backward(
    grad_y, offsets, input_size, kernel_size, stride, padding, dilation, ceil_mode
):
    height, width = input_size
    h, w = _coordinates(offsets, kernel_size, stride, padding, dilation)
    inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    indices = torch.where(inside, h * width + w, 0).flatten(-2)
    grad = torch.where(inside, grad_y, 0).flatten(-2)
    grad_x = grad.new_zeros((*grad.shape[:-1], height * width)).scatter_add(-1, indices, grad)
    return grad_x.unflatten(-1, (height, width))


def _fake_inference(x, kernel_size, stride, padding, dilation, ceil_mode):
    size = pooled_size("max_pool2d", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    check_dtype("max_pool2d", "input", x)
    return empty_pooled(x, size, is_channels_last(x))


def _fake(x, kernel_size, *args):
    y = _fake_inference(x, kernel_size, *args)
    return y, torch.empty_like(y, dtype=offset_dtype(kernel_size))


def check_offsets(op, offsets, input_size, kernel_size, stride, padding, dilation, ceil_mode):
    check_pair(op, "input_size", input_size, 1)
    check_input(op, "offsets", offsets.shape)
    shape = (*offsets.shape[:-2], *input_size)
    size = pooled_size(op, shape, kernel_size, stride, padding, dilation, ceil_mode)
    check(tuple(offsets.shape[-2:]) == tuple(size), op, "offsets", list(offsets.shape), size)
    wanted = offset_dtype(kernel_size)
    check(offsets.dtype == wanted, op, "offsets", f"dtype {offsets.dtype}", wanted)


def _fake_backward(grad_y, offsets, input_size, *args):
    op = "max_pool2d_backward"
    check_offsets(op, offsets, input_size, *args)
    check(grad_y.shape == offsets.shape, op, "grad_y", list(grad_y.shape), list(offsets.shape))
    check_dtype(op, "grad_y", grad_y)
    check_same_device(op, "grad_y", grad_y, offsets)
    return empty_pooled(grad_y, input_size, is_channels_last(offsets))


def _fake_indices(offsets, input_size, *args):
    check_offsets("max_pool2d_indices", offsets, input_size, *args)
    return empty_pooled(offsets, offsets.shape[-2:], is_channels_last(offsets), torch.int64)


def _save(ctx, inputs, output):
    x, *ctx.arguments = inputs
    ctx.input_size = x.shape[-2:]
    ctx.save_for_backward(output[1])
    no_gradient_of(ctx, output[1])


def _backward(ctx, grad_y, _):
    if grad_y is None:  # y took no part in what is differentiated
        return (None,) * 6
    (offsets,) = ctx.saved_tensors
    grad_y = in_format(grad_y, is_channels_last(offsets))
    grad_x = max_pool2d_backward(
        grad_y, offsets, ctx.input_size, *ctx.arguments, namespace=ctx.namespace
    )
    return grad_x, None, None, None, None, None


max_pool2d_inference = Op(
    name="max_pool2d_inference",
    pairs=4,
    decomposition=_max_pool2d_inference,
    fake=_fake_inference,
    sharded_dims=(0, 1),
)
max_pool2d = Op(
    name="max_pool2d",
    pairs=4,
    decomposition=_max_pool2d,
    fake=_fake,
    save=_save,
    backward=_backward,
    sharded_dims=(0, 1),
)
max_pool2d_backward = Op(
    name="max_pool2d_backward",
    decomposition=_max_pool2d_backward,
    fake=_fake_backward,
    sharded_dims=(0, 1),
)
max_pool2d_indices = Op(
    name="max_pool2d_indices",
    pairs=5,
    decomposition=_max_pool2d_indices,
    fake=_fake_indices,
    dtypes=frozenset({torch.uint8, torch.int32}),
    sharded_dims=(0, 1),
)
