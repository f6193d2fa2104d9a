"""depthwise_separable: a tile of the pointwise product's operand is filtered where it is needed.

As conv2d's implicit GEMM: rows are y's pixels, columns its channels, and the sum runs over x's
channels; of BLOCK_K of them at a time, the depthwise results are computed, normalised and
activated in registers, and rounded as they would be in memory. Each tile of columns filters anew:
taps / BLOCK_N of the product's work. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._packed import unpack

from ._activation import activate
from ._conv2d import BLOCKS, block, is_wide, product, read, taps_along
from ._pool2d import SIZES, at, shape4, strides4, widened
from .conv2d import finished
from .conv_bn_act import folded


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _depthwise_separable_kernel(
    x,
    weight,
    scale,
    shift,
    pointwise,
    pointwise_scale,
    pointwise_shift,
    residual,
    y,
    N,
    C,
    O,  # noqa: E741
    H,
    W,
    OH,
    OW,
    x_stride,
    w_stride,
    pointwise_stride,
    residual_stride,
    y_stride,
    rows,
    columns,
    activation: tl.constexpr,
    pointwise_activation: tl.constexpr,
    int64: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    program = tl.program_id(0)
    if int64:
        program = program.to(tl.int64)
    m = program // tl.cdiv(O, BLOCK_N) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    o = program % tl.cdiv(O, BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    q = m % OW
    p = m // OW % OH
    n = m // OW // OH

    acc = widened(tl.zeros([BLOCK_M, BLOCK_N], y.dtype.element_ty))
    for c0 in range(0, C, BLOCK_K):
        k = c0 + tl.arange(0, BLOCK_K)
        c = k[None, :]
        there = (n < N) & (c < C)
        sums = widened(tl.zeros([BLOCK_M, BLOCK_K], y.dtype.element_ty))
        for i in range(rows.kernel):
            h, in_rows = read(p, i, H, rows, False)
            for j in range(columns.kernel):
                w, in_columns = read(q, j, W, columns, False)
                v = tl.load(x + at(n, c, h, w, x_stride), there & in_rows & in_columns, 0.0)
                factor = tl.load(weight + at(c, 0, i, j, w_stride), c < C, 0.0)
                sums += widened(v) * widened(factor)
        sums = sums * tl.load(scale + c, c < C, 0.0) + tl.load(shift + c, c < C, 0.0)
        from_k = k[:, None]
        at_weight = at(o, from_k, 0, 0, pointwise_stride)
        b = tl.load(pointwise + at_weight, (from_k < C) & (o < O), 0.0)
        acc = product(activate(sums, activation).to(b.dtype), b, acc)

    inside = (n < N) & (o < O)
    at_residual = at(n, o, p, q, residual_stride)
    acc = finished(
        acc,
        pointwise_scale,
        o,
        pointwise_shift,
        1,
        residual,
        at_residual,
        inside,
        pointwise_activation,
    )
    tl.store(y + at(n, o, p, q, y_stride), acc, inside)


def depthwise_separable_inference(x, weight, *rest):
    return _launched(OPS["depthwise_separable_inference"].fake(x, weight, *rest), x, weight, *rest)


def depthwise_separable_packed_inference(x, weight, *rest):
    y = OPS["depthwise_separable_packed_inference"].fake(x, weight, *rest)
    panels, out_channels = rest[5:7]
    pointwise = unpack(panels, (out_channels, x.shape[1], 1, 1), 1, x.dtype)
    return _launched(y, x, weight, *rest[:5], pointwise, *rest[7:])


def _launched(y, x, weight, *rest):
    if y.numel() == 0:
        return y
    *norm, pointwise, gamma, beta, mean, var, eps, residual = rest[:12]
    stride, padding, dilation, *activations = rest[12:]
    scale, shift = folded(x, *norm)
    pointwise_scale, pointwise_shift = folded(x, gamma, beta, mean, var, eps)
    N, C, H, W = shape4(x)
    _, O, OH, OW = shape4(y)  # noqa: E741
    (rows, columns), axes = taps_along(weight.shape[2:], stride, padding, dilation)
    int64 = is_wide([x, weight, pointwise, residual, y], (H, W), (OH, OW), axes)
    tensors = (x, weight, pointwise, residual, y)
    strides = [strides4(t) if t is not None else (0, 0, 0, 0) for t in tensors]
    block_m, block_n, block_k = BLOCKS[x.element_size()]
    block_m, block_n = block(N * OH * OW, block_m), block(O, block_n)
    grid = (triton.cdiv(N * OH * OW, block_m) * triton.cdiv(O, block_n),)
    _depthwise_separable_kernel[grid](
        *(x, weight, scale, shift, pointwise, pointwise_scale, pointwise_shift, residual, y),
        *(N, C, O, H, W, OH, OW, *strides, rows, columns, *activations),
        *(int64, block_m, block_n, block_k),
    )
    return y


KERNELS = {
    "depthwise_separable_inference": depthwise_separable_inference,
    "depthwise_separable_packed_inference": depthwise_separable_packed_inference,
}
