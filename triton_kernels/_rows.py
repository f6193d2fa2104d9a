"""What kernels over dense elements and rows share."""

import torch
import triton
import triton.language as tl

from torchext.ops._dense import empty_as


def densified(x):
    """x, or, where it is not dense, a copy of it that is."""
    y = torch.empty_like(x, device="meta")
    return x if y.stride() == x.stride() else empty_as(x).copy_(x)


def laid_out_as(like, x):
    """x, or a copy of it, with its elements in the same places as those of `like`."""
    return x if x.stride() == like.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)


def is_large(*tensors):
    """Whether an index may need more than 31 bits (2^16: lanes beyond the end)."""
    return max(x.numel() for x in tensors) + 2**16 >= 2**31


@triton.jit
def offsets(count, large: tl.constexpr, BLOCK: tl.constexpr):
    """(this program's elements, whether they are inside)"""
    p = tl.program_id(0)
    if large:
        p = p.to(tl.int64)
    k = p * BLOCK + tl.arange(0, BLOCK)
    return k, k < count


@triton.jit
def row_of(size, large: tl.constexpr):
    """(this program's row, its first element)"""
    row = tl.program_id(0)
    if large:
        row = row.to(tl.int64)
    return row, row * size


@triton.jit
def widened(v):
    """In the type that is computed in: float32, or float64 for float64."""
    return v if v.dtype == tl.float64 else v.to(tl.float32)
