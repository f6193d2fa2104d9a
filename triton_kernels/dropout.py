"""dropout by Philox 4x32-10: csrc/op/dropout.h says which word decides on which element. A program
has 256 elements, 64 counters of four words. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops.dropout import scale_of, threshold_of

from ._rows import is_large, widened


@triton.jit
def philox(counter, seed_low, seed_high):
    """Four words of 32 bits for each counter, which are int64."""
    a = (counter & 0xFFFFFFFF).to(tl.uint32)
    b = (counter >> 32).to(tl.uint32)
    c = tl.zeros_like(a)
    d = c
    none = tl.zeros_like(counter)  # a seed's half may be 1, which is a constant without to()
    key0 = (none + seed_low).to(tl.uint32)
    key1 = (none + seed_high).to(tl.uint32)
    for _ in tl.static_range(10):
        first = a.to(tl.uint64) * 0xD2511F53
        second = c.to(tl.uint64) * 0xCD9E8D57
        a = (second >> 32).to(tl.uint32) ^ b ^ key0
        b = second.to(tl.uint32)
        c = (first >> 32).to(tl.uint32) ^ d ^ key1
        d = first.to(tl.uint32)
        key0 += 0x9E3779B9
        key1 += 0xBB67AE85
    return a, b, c, d


@triton.jit
def _dropout_kernel(
    x,
    y,
    count,
    seed_low,
    seed_high,
    threshold,
    scale: tl.constexpr,
    large: tl.constexpr,
):
    block = tl.program_id(0)
    if large:
        block = block.to(tl.int64)
    lane = tl.arange(0, 64)
    a, b, c, d = philox(block.to(tl.int64) * 64 + lane, seed_low, seed_high)
    for j in tl.static_range(4):
        word = a if j == 0 else b if j == 1 else c if j == 2 else d
        k = block * 256 + j * 64 + lane
        v = widened(tl.load(x + k, k < count, 0.0)) * scale
        tl.store(y + k, tl.where(word.to(tl.int64) >= threshold, v, 0.0), k < count)


def halves(seed):
    return seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF


def dropout(x, p, seed, scaled):
    y = OPS["dropout"].fake(x, p, seed, scaled)
    if count := x.numel():
        _dropout_kernel[(triton.cdiv(count, 256),)](
            *(x.contiguous(), y, count, *halves(seed)),
            *(threshold_of(p), scale_of(p, scaled), is_large(x)),
        )
    return y


KERNELS = {"dropout": dropout, "dropout_inference": dropout}
