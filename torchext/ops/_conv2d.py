"""Convolution's shapes over SymInt, for fakes and Triton: the rules of csrc/op/conv2d_shape.h."""

import torch

from ._op import check
from ._pool2d import check_dtype, check_pair, check_same_device, is_channels_last


def check_companion(op, argument, tensor, first):
    """A tensor that goes with `first`: on its device, of its dtype."""
    check_same_device(op, argument, first, tensor)
    check(tensor.dtype == first.dtype, op, argument, f"dtype {tensor.dtype}", first.dtype)


def check_weight(op, shape):
    check(len(shape) == 4, op, "weight", f"{len(shape)} dimensions", "4 (O, C / groups, H, W)")
    for d in range(4):
        check(shape[d] > 0, op, "weight", f"size 0 in dimension {d}", "no empty one")


def check_rank(op, argument, shape):
    expected = "3 (C, H, W) or 4 (N, C, H, W)"
    check(len(shape) in (3, 4), op, argument, f"{len(shape)} dimensions", expected)


def check_shape(op, argument, shape, expected):
    same = len(shape) == len(expected) and all(a == b for a, b in zip(shape, expected, strict=True))
    check(same, op, argument, f"shape {list(shape)}", list(expected))


def _check_fits(op, argument, value, got):
    """64 bits are C++'s limit, not Python's."""
    check(value < 2**63, op, argument, got, "a result within 64 bits")


def _output_size(op, size, kernel, stride, padding, dilation):
    span = dilation * (kernel - 1) + 1
    _check_fits(op, "dilation", span, f"{dilation} * {kernel - 1}")
    padded = size + 2 * padding
    _check_fits(op, "padding", padded, f"{size} + 2 * {padding}")
    wanted = f"at most the padded input's {padded}"
    check(padded >= span, op, "weight", f"a kernel spanning {span}", wanted)
    return (padded - span) // stride + 1


def output_shape(op, shape, weight, stride, padding, dilation, groups):
    """The shape of conv2d over an input of `shape`, everything checked."""
    check_pair(op, "stride", stride, 1)
    check_pair(op, "padding", padding, 0)
    check_pair(op, "dilation", dilation, 1)
    check(groups >= 1, op, "groups", groups, "at least 1")
    check_weight(op, weight)
    divides = weight[0] % groups == 0
    wanted = f"a multiple of the groups, {groups}"
    check(divides, op, "weight", f"{weight[0]} output channels", wanted)
    check_rank(op, "input", shape)
    wanted = f"{weight[1]} times the groups, {groups}"
    check(shape[-3] == weight[1] * groups, op, "input", f"{shape[-3]} channels", wanted)
    sizes = [
        _output_size(op, shape[d], weight[d], stride[d], padding[d], dilation[d]) for d in (-2, -1)
    ]
    return [*shape[:-3], weight[0], *sizes]


def transposed_shape(op, shape, weight, stride, padding, output_padding, groups, dilation):
    """The shape of conv_transpose2d: of the input that conv2d makes `shape` of, and a bit more."""
    check_rank(op, "input", shape)
    check(groups >= 1, op, "groups", groups, "at least 1")
    check_weight(op, weight)
    check(shape[-3] == weight[0], op, "input", f"{shape[-3]} channels", weight[0])
    for d in range(len(shape) - 2, len(shape)):
        check(shape[d] > 0, op, "input", f"size 0 in dimension {d}", "only the batch to be empty")
    check_pair(op, "stride", stride, 1)
    check_pair(op, "padding", padding, 0)
    check_pair(op, "dilation", dilation, 1)
    check_pair(op, "output_padding", output_padding, 0)
    sizes = []
    for d in (-2, -1):
        more = output_padding[d]
        wanted = "less than the stride or the dilation"
        check(more < stride[d] or more < dilation[d], op, "output_padding", more, wanted)
        spread, span = (shape[d] - 1) * stride[d], (weight[d] - 1) * dilation[d]
        _check_fits(op, "stride", spread, f"{shape[d] - 1} * {stride[d]}")
        _check_fits(op, "dilation", span, f"{weight[d] - 1} * {dilation[d]}")
        _check_fits(op, "padding", spread + span + more + 1, f"{spread} + {span} + {more + 1}")
        _check_fits(op, "padding", 2 * padding[d], f"2 * {padding[d]}")
        size = spread + span + more + 1 - 2 * padding[d]
        check(size > 0, op, "padding", padding[d], "an output of at least one")
        sizes.append(size)
    y = [*shape[:-3], weight[1] * groups, *sizes]
    output_shape(op, y, weight, stride, padding, dilation, groups)  # its checks
    return y


def empty_image(like, shape, channels_last):
    """An uninitialised tensor of `shape`, dense in the given memory format."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def output_is_channels_last(x, weight):
    return x.dim() == 4 and (is_channels_last(x) or is_channels_last(weight))


def check_operands(op, x, weight):
    check_dtype(op, "input", x)
    check_companion(op, "weight", weight, x)


def check_bias(op, bias, x, channels):
    if bias is not None:
        check_companion(op, "bias", bias, x)
        check_shape(op, "bias", bias.shape, [channels])
