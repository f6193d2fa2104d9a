"""conv2d_backward_weight: grad_w[o, k] = sum over pixels p of grad_y[p, o] * x[p, k].

k = (tap, channel of x), channels fastest, and one more column, of ones, where grad_bias is wanted.
The pixels are split, by the shape alone, into shares that fill a GPU; each share's sums go to
scratch memory and are added up in order by a second kernel: no atomics, the same bits at every run.
Depthwise convolution has no product, only sums along pixels, a tap at a time. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._pool2d import is_channels_last

from ._conv2d import (
    BLOCKS,
    accumulator,
    block,
    gated,
    is_depthwise,
    is_wide,
    product,
    read,
    taps_along,
)
from ._pool2d import LANES, SIZES, at, shape4, strides4, widened

PROGRAMS = 512  # that fill a GPU; not swept yet
LEAST_SHARE = 256  # pixels: fewer are not worth another partial sum
DEPTHWISE_TILE = 1024  # elements: 8 a thread
SUMS = 256  # elements that a program of the second kernel adds up


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _conv2d_weight_kernel(
    grad_y,
    gate,
    x,
    partial,  # [split, OC of all groups, K + of_bias]
    total,  # pixels
    C,  # in a group
    OC,
    H,
    W,
    OH,
    OW,
    groups,
    grad_y_stride,
    gate_stride,
    x_stride,
    rows,
    columns,
    share,  # pixels of a split
    activation: tl.constexpr,
    of_bias: tl.constexpr,
    int64: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    program = tl.program_id(0)
    if int64:
        program = program.to(tl.int64)
    K = C * rows.kernel * columns.kernel
    k = program % tl.cdiv(K + of_bias, BLOCK_K) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    program = program // tl.cdiv(K + of_bias, BLOCK_K)
    o = program % tl.cdiv(OC, BLOCK_O) * BLOCK_O + tl.arange(0, BLOCK_O)[:, None]
    program = program // tl.cdiv(OC, BLOCK_O)
    group = program % groups
    split = program // groups
    from_c = group * C + k % C
    i = k // C // columns.kernel
    j = k // C % columns.kernel
    to_c = group * OC + o
    end = tl.minimum((split + 1) * share, total)

    acc = widened(tl.zeros([BLOCK_O, BLOCK_K], x.dtype.element_ty))
    for p0 in range(split * share, end, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        ow = p % OW
        oh = p // OW % OH
        n = p // OW // OH
        counts = (p < end)[None, :] & (o < OC)
        g = tl.load(
            grad_y + at(n[None, :], to_c, oh[None, :], ow[None, :], grad_y_stride), counts, 0.0
        )
        at_gate = at(n[None, :], to_c, oh[None, :], ow[None, :], gate_stride)
        g = gated(g, gate, at_gate, counts, activation)
        h, in_rows = read(oh[:, None], i, H, rows, False)
        w, in_columns = read(ow[:, None], j, W, columns, False)
        reads = (p < end)[:, None] & (k < K) & in_rows & in_columns
        v = tl.load(x + at(n[:, None], from_c, h, w, x_stride), reads, 0.0)
        v = tl.where(k == K, 1.0, v).to(v.dtype)  # grad_bias's column
        acc = product(g, v, acc)
    tl.store(
        partial + (split * groups * OC + to_c) * (K + of_bias) + k,
        acc,
        (o < OC) & (k < K + of_bias),
    )


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _depthwise_weight_kernel(
    grad_y,
    gate,
    x,
    partial,  # [split, OC, K + of_bias]
    total,
    OC,
    H,
    W,
    OH,
    OW,
    multiplier,
    grad_y_stride,
    gate_stride,
    x_stride,
    rows,
    columns,
    share,
    activation: tl.constexpr,
    of_bias: tl.constexpr,
    int64: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    if int64:
        program = program.to(tl.int64)
    K = rows.kernel * columns.kernel
    k = program % (K + of_bias)
    program = program // (K + of_bias)
    o = program % tl.cdiv(OC, BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    split = program // tl.cdiv(OC, BLOCK_C)
    end = tl.minimum((split + 1) * share, total)

    acc = widened(tl.zeros([BLOCK_P, BLOCK_C], x.dtype.element_ty))
    for p0 in range(split * share, end, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)[:, None]
        ow = p % OW
        oh = p // OW % OH
        n = p // OW // OH
        counts = (p < end) & (o < OC)
        g = tl.load(grad_y + at(n, o, oh, ow, grad_y_stride), counts, 0.0)
        g = gated(g, gate, at(n, o, oh, ow, gate_stride), counts, activation)
        h, in_rows = read(oh, k // columns.kernel, H, rows, False)
        w, in_columns = read(ow, k % columns.kernel, W, columns, False)
        reads = counts & in_rows & in_columns
        v = tl.load(x + at(n, o // multiplier, h, w, x_stride), reads, 0.0)
        acc += widened(g) * tl.where(k == K, 1.0, widened(v))
    sums = tl.sum(acc, axis=0, keep_dims=True)
    tl.store(partial + (split * OC + o) * (K + of_bias) + k, sums, o < OC)


@triton.jit
def _sum_partials_kernel(
    partial,
    grad_weight,
    grad_bias,
    splits,
    total,  # of partial, per split
    C,  # in a group
    taps_h,
    taps_w,
    w_stride,
    of_bias: tl.constexpr,
    int64: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    if int64:
        program = program.to(tl.int64)
    e = program * BLOCK + tl.arange(0, BLOCK)
    sum = tl.zeros([BLOCK], partial.dtype.element_ty)
    for split in range(splits):
        sum += tl.load(partial + split * total + e, e < total, 0.0)
    K = C * taps_h * taps_w
    o = e // (K + of_bias)
    k = e % (K + of_bias)
    to = at(o, k % C, k // C // taps_w, k // C % taps_w, w_stride)
    tl.store(grad_weight + to, sum, (e < total) & (k < K))
    tl.store(grad_bias + o, sum, (e < total) & (k == K))


def _shares(total, tiles):
    """(pixels of a split, splits), by the shape alone."""
    splits = max(1, min(PROGRAMS // tiles, triton.cdiv(total, LEAST_SHARE)))
    share = max(1, triton.cdiv(total, splits))
    return share, max(1, triton.cdiv(total, share))


def conv2d_backward_weight(grad_y, y, x, kernel_size, channels_last, *arguments):
    op = OPS["conv2d_backward_weight"]
    grads = op.fake(grad_y, y, x, kernel_size, channels_last, *arguments)
    grad_weight, grad_bias = grads
    stride, padding, dilation, groups, activation, of_bias = arguments
    N, C, H, W = shape4(x)
    OC, OH, OW = grad_y.shape[-3:]
    (rows, columns), axes = taps_along(kernel_size, stride, padding, dilation)
    strides = strides4(grad_y), strides4(y if y is not None else grad_y), strides4(x)
    total = N * OH * OW
    K = C // groups * kernel_size[0] * kernel_size[1]
    sums = K + of_bias  # of an output channel
    if sums == 0:
        return grads
    depthwise = is_depthwise(C, groups)
    if depthwise:
        last = is_channels_last(grad_y)
        block_c = min(triton.next_power_of_2(OC), LANES * 16 // x.element_size()) if last else 1
        block_p = min(DEPTHWISE_TILE // block_c, max(16, triton.next_power_of_2(total)))
        blocks = block_p, block_c
        tiles = sums * triton.cdiv(OC, block_c)
    else:
        block_o, block_k, block_p = BLOCKS[x.element_size()]
        blocks = block(OC // groups, block_o), block(sums, block_k), block_p
        tiles = groups * triton.cdiv(OC // groups, blocks[0]) * triton.cdiv(sums, blocks[1])
    share, splits = _shares(total, tiles)
    partial = grad_y.new_empty((splits, OC, sums), dtype=accumulator(x.dtype))
    int64 = is_wide([grad_y, y, x, partial], (H, W), (OH, OW), axes)
    sizes = (
        (OC, H, W, OH, OW, C and OC // C)
        if depthwise
        else (*(C // groups, OC // groups, H, W, OH, OW, groups),)
    )
    kernel = _depthwise_weight_kernel if depthwise else _conv2d_weight_kernel
    kernel[(tiles * splits,)](
        *(grad_y, y, x, partial, total, *sizes, *strides, rows, columns, share),
        *(activation if y is not None else 0, of_bias, int64, *blocks),
    )
    _sum_partials_kernel[(triton.cdiv(OC * sums, SUMS),)](
        *(partial, grad_weight, grad_bias, splits, OC * sums),
        *(C // groups, *kernel_size, strides4(grad_weight), of_bias, int64, SUMS),
    )
    return grads


KERNELS = {"conv2d_backward_weight": conv2d_backward_weight}
