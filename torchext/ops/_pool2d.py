"""Pooling shapes over SymInt, for fakes and Triton: the rules of csrc/op/pool2d_shape.h."""

import torch
from torch._prims_common import suggest_memory_format

from ._op import FLOATS, PLAIN, check


def check_pair(op, argument, pair, least):
    check(len(pair) == 2, op, argument, f"{len(pair)} values", "2")
    check(
        pair[0] >= least and pair[1] >= least,
        op,
        argument,
        list(pair),
        f"values of at least {least}",
    )


def check_input(op, argument, shape):
    rank = len(shape)
    check(rank in (3, 4), op, argument, f"{rank} dimensions", "3 (C, H, W) or 4 (N, C, H, W)")
    for d in range(rank - 3, rank):
        check(shape[d] > 0, op, argument, f"size 0 in dimension {d}", "only the batch to be empty")


def check_dtype(op, argument, x):
    check(
        x.dtype in FLOATS, op, argument, f"dtype {x.dtype}", "float32, float64, bfloat16 or float16"
    )


def check_same_device(op, argument, x, other):
    check(
        x.device == other.device, op, argument, f"a tensor on {x.device}", f"one on {other.device}"
    )


def output_size(op, size, kernel, stride, padding, dilation, ceil_mode):
    """Outputs along one axis."""
    span = dilation * (kernel - 1) + 1
    # 64 bits are C++'s limit, not Python's; a SymInt is within it by itself.
    check(span < 2**63, op, "dilation", f"{dilation} * {kernel - 1}", "a product within 64 bits")
    check(
        padding <= kernel // 2, op, "padding", padding, f"at most half the kernel size of {kernel}"
    )
    padded = size + 2 * padding
    room = padded - span
    outputs = room // stride + 1
    if ceil_mode:  # one more window, if it starts inside the input or its left padding
        outputs = torch.sym_min(-(-room // stride) + 1, (size + padding - 1) // stride + 1)
    wanted = f"at most the padded input's {padded}"
    check(outputs >= 1, op, "kernel_size", f"a window spanning {span}", wanted)
    return outputs


def pooled_size(op, shape, kernel_size, stride, padding, dilation, ceil_mode):
    """(OH, OW) of a sliding pool over an input of `shape`, everything checked."""
    check_pair(op, "kernel_size", kernel_size, 1)
    check_pair(op, "stride", stride, 1)
    check_pair(op, "padding", padding, 0)
    check_pair(op, "dilation", dilation, 1)
    check_input(op, "input", shape)
    return [
        output_size(op, shape[d], kernel_size[d], stride[d], padding[d], dilation[d], ceil_mode)
        for d in (-2, -1)
    ]


def is_channels_last(x):
    """As suggest_memory_format, at a fifth of its cost where sizes are numbers."""
    if x.dim() != 4 or type(x) not in PLAIN:
        return x.dim() == 4 and suggest_memory_format(x) is torch.channels_last
    shape, stride, least = x.shape, x.stride(), 1
    for d in (1, 3, 2, 0):
        if shape[d] == 0 or stride[d] < least or (d == 0 and least == stride[1]):
            return False
        least = stride[d] * shape[d]
    return True


def in_format(grad, channels_last):
    """A gradient in the memory format of its output: kernels run their lanes along both."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return grad.contiguous(memory_format=memory_format)


def empty_pooled(x, size, channels_last, dtype=None):
    """An uninitialised tensor like x, of another spatial size, dense in the given memory format."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(
        (*x.shape[:-2], *size),
        dtype=dtype or x.dtype,
        device=x.device,
        memory_format=memory_format,
    )


def positions(size, stride, padding, device):
    """The input row (or column) of each window's tap 0."""
    return torch.arange(size, device=device) * stride - padding


def window_in_padding(size, outputs, kernel, stride, padding, dilation):
    """Whether some window along an axis lies wholly in the padding: only dilated ones can."""
    if dilation == 1 or padding == 0:
        return False
    starts = range(-padding, (outputs - 1) * stride - padding + 1, stride)
    return any(
        not any(0 <= start + tap * dilation < size for tap in range(kernel)) for start in starts
    )
