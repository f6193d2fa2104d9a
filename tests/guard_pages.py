"""Runs the CPU kernels on tensors whose memory ends, or begins, at a page nobody may touch.

    python guard_pages.py            every case on every ISA; a read too far is a SIGSEGV
    python guard_pages.py overrun    such a read on purpose

A sanitizer knows nothing of intrinsics' reads through casts; the memory management unit does.
"""

import ctypes
import faulthandler
import itertools
import mmap
import sys

import torch

import torchext
from torchext import _host

PROT_NONE = 0
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Around each lane count (1 to 64, four vectors at a time) and its halves, and odd ones between.
WIDTHS = (*range(2, 20), 23, 31, 33, 47, 64, 65, 67)
# Kernel, stride, padding, dilation: lanes 1, 2 and 3 elements apart, cut by the border or not; the
# last has too many taps for offsets of one byte.
POOLS = ((3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (2, 3, 1, 1), (2, 1, 0, 2), (17, 4, 8, 1))
# What separates elements: nothing, the gaps of a slice [..., ::2], or those of cut rows.
LAYOUTS = ("contiguous", "channels_last", "every other", "cut rows", "cut channels")


class Arena:
    """Memory between two pages that kill; tensors are put at either end of it."""

    size = 1 << 20

    def __init__(self):
        page = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.size + 2 * page)
        self.begin = page
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for guard in (address, address + page + self.size):
            failed = libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), PROT_NONE)
            assert not failed, ctypes.get_errno()

    def put(self, x, strides, at_end):
        """A copy of x with these strides, touching the last (or first) byte between the guards."""
        count = 1 + sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True))
        size = count * x.itemsize
        assert size <= self.size
        start = self.begin + (self.size - size if at_end else 0)
        flat = torch.frombuffer(self.memory, dtype=x.dtype, count=count, offset=start)
        return flat.as_strided(x.shape, strides).copy_(x)


def strides_of(shape, layout):
    _, C, H, W = shape
    return {
        "contiguous": (C * H * W, H * W, W, 1),
        "channels_last": (H * W * C, 1, W * C, C),
        "every other": (C * H * W * 2, H * W * 2, W * 2, 2),
        "cut rows": (C * H * (W + 1), H * (W + 1), W + 1, 1),
        "cut channels": (H * W * (C + 1), 1, W * (C + 1), C + 1),
    }[layout]


def check_same(op, tensors, arguments, arenas, layout):
    """The op on guarded copies gives what it gives on copies in ordinary memory."""
    strides = [strides_of(x.shape, layout) for x in tensors]
    plain = [
        torch.empty_strided(x.shape, s, dtype=x.dtype).copy_(x)
        for x, s in zip(tensors, strides, strict=True)
    ]
    expected = op(*plain, *arguments)
    for at_end in (False, True):
        guarded = [
            arena.put(x, s, at_end) for arena, x, s in zip(arenas, tensors, strides, strict=False)
        ]
        for got, right in zip(outputs(op(*guarded, *arguments)), outputs(expected), strict=True):
            assert torch.equal(got, right), (op, arguments, layout, at_end)
    return expected


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def run_cases(x, layout, arenas):
    ops = torch.ops.torchext
    channels_last = layout in ("channels_last", "cut channels")
    size = list(x.shape[-2:])

    def check(op, *tensors_and_arguments):
        tensors = [a for a in tensors_and_arguments if isinstance(a, torch.Tensor)]
        return check_same(op, tensors, tensors_and_arguments[len(tensors) :], arenas, layout)

    for kernel, stride, padding, dilation in POOLS:
        window = [[n, n] for n in (kernel, stride, padding, dilation)]
        if dilation * (kernel - 1) + 1 <= min(size) + 2 * padding:
            check(ops.max_pool2d_inference, x, *window, False)
            y, offsets = check(ops.max_pool2d, x, *window, False)
            check(ops.max_pool2d_backward, y, offsets, size, *window, False)
            check(ops.max_pool2d_indices, offsets, size, *window, False)
        if dilation == 1 and kernel <= min(size) + 2 * padding:
            average = (*window[:3], False, True, None)
            y = check(ops.avg_pool2d_inference, x, *average)
            check(ops.avg_pool2d_backward, y, size, channels_last, *average)
    for output_size in ([1, 1], [2, 3], [5, 7]):
        y = check(ops.adaptive_avg_pool2d_inference, x, output_size)
        check(ops.adaptive_avg_pool2d_backward, y, size, channels_last)


def overrun(arena):
    memory = torch.frombuffer(arena.memory, dtype=torch.float32)
    x = memory[-mmap.PAGESIZE // 4 - 1 :].view(1, 1, -1, 1)
    torch.ops.torchext.max_pool2d_inference(x, [1, 1], [1, 1], [0, 0], [1, 1], False)


def main(arguments):
    faulthandler.enable()  # a crash tells its line
    arenas = Arena(), Arena()
    if arguments == ["overrun"]:
        overrun(arenas[0])
    for isa in [isa for isa, present in _host.cpu_features().items() if present]:
        print(isa, flush=True)
        torchext._load.use_isa(isa)
        for dtype, layout, width in itertools.product(DTYPES, LAYOUTS, WIDTHS):
            by_channels = layout in ("channels_last", "cut channels")  # what the lanes run along
            shape = (1, width, 3, 2) if by_channels else (1, 2, 3, width)
            torch.manual_seed(width)
            run_cases(torch.randn(shape).to(dtype), layout, arenas)
    print("all right")


if __name__ == "__main__":
    main(sys.argv[1:])
