"""conv2d and its gradient of x, which conv_transpose2d is too: y = act(x * w + bias + residual),
the product times a scale per channel where batch norm is folded into it.

An implicit GEMM over any strides: rows are y's pixels, columns the channels of a group, and the
sum runs over k = (tap, channel of x), channels fastest. Transposed, the pixels of each residue of
the stride are tiles of their own and sum only the taps that reach them: a dense product again.
Depthwise convolution sums its few taps on _pool2d.py's tiles. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._packed import unpack
from torchext.ops._pool2d import is_channels_last
from torchext.ops._winograd import unpack_winograd

from ._activation import activate
from ._conv2d import (
    BLOCKS,
    block,
    gated,
    is_depthwise,
    is_wide,
    phase,
    product,
    read,
    taps_along,
)
from ._pool2d import SIZES, at, locate, shape4, strides4, tiled, unrolled, widened


@triton.jit
def finished(
    acc, scale, to_c, bias, bias_stride, residual, at_residual, inside, activation: tl.constexpr
):
    """The epilogue."""
    if scale is not None:
        acc *= tl.load(scale + to_c, inside, 0.0)
    if bias is not None:
        acc += widened(tl.load(bias + to_c * bias_stride, inside, 0.0))
    if residual is not None:
        acc += widened(tl.load(residual + at_residual, inside, 0.0))
    return activate(acc, activation)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _conv2d_kernel(
    x,
    gate,  # the result of a fused activation whose gradient x is, or None
    weight,
    scale,
    bias,
    residual,
    y,
    N,
    C,  # of x and of y, in a group
    OC,
    H,  # of x and of y
    W,
    OH,
    OW,
    groups,
    x_stride,
    gate_stride,
    w_stride,  # along y's channels, x's channels, rows, columns, groups
    bias_stride,
    residual_stride,
    y_stride,
    rows,
    columns,
    pixel_tiles,  # of a phase
    transposed: tl.constexpr,
    gate_activation: tl.constexpr,
    activation: tl.constexpr,
    int64: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    program = tl.program_id(0)
    if int64:
        program = program.to(tl.int64)
    tile_n = program % tl.cdiv(OC, BLOCK_N)
    program = program // tl.cdiv(OC, BLOCK_N)
    group = program % groups
    program = program // groups
    tile_m = program % pixel_tiles
    first = program // pixel_tiles
    first_w = first % tl.minimum(columns.stride, OW) if transposed else 0 * first
    first_h = first // tl.minimum(columns.stride, OW) if transposed else 0 * first
    PH, i0, i_step, taps_h, top, h_step, h_tap = phase(first_h, OH, rows, transposed)
    PW, j0, j_step, taps_w, left, w_step, w_tap = phase(first_w, OW, columns, transposed)

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    q = m % PW
    p = m // PW % PH
    n = m // PW // PH
    top += p * h_step
    left += q * w_step
    o = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    K = C * taps_h * taps_w

    acc = widened(tl.zeros([BLOCK_M, BLOCK_N], y.dtype.element_ty))
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        c = k % C
        i = k // C // taps_w
        j = k // C % taps_w
        h = top + (i * h_tap)[None, :]
        w = left + (j * w_tap)[None, :]
        inside = (n < N) & (k < K)[None, :] & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        from_c = (group * C + c)[None, :]
        a = tl.load(x + at(n, from_c, h, w, x_stride), inside, 0.0)
        a = gated(a, gate, at(n, from_c, h, w, gate_stride), inside, gate_activation)
        in_w = c * w_stride[1] + (i0 + i * i_step) * w_stride[2] + (j0 + j * j_step) * w_stride[3]
        in_w = group * w_stride[4] + in_w[:, None] + o * w_stride[0]
        b = tl.load(weight + in_w, (k < K)[:, None] & (o < OC), 0.0)
        acc = product(a, b, acc)

    oh = first_h + p * (rows.stride if transposed else 1)
    ow = first_w + q * (columns.stride if transposed else 1)
    to_c = group * OC + o
    inside = (n < N) & (o < OC)
    at_residual = at(n, to_c, oh, ow, residual_stride)
    acc = finished(acc, scale, to_c, bias, bias_stride, residual, at_residual, inside, activation)
    tl.store(y + at(n, to_c, oh, ow, y_stride), acc, inside)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _depthwise_kernel(
    x,
    gate,
    weight,
    scale,
    bias,
    residual,
    y,
    total,
    C,  # of y
    H,  # of x and of y
    W,
    OH,
    OW,
    multiplier,  # outputs of the forward convolution per input channel
    x_stride,
    gate_stride,
    w_stride,
    bias_stride,
    residual_stride,
    rows,
    columns,
    summed,  # channels of x per channel of y
    transposed: tl.constexpr,
    gate_activation: tl.constexpr,
    activation: tl.constexpr,
    tile,
):
    n, c, oh, ow, to, inside = locate(total, C, OH, OW, tile)
    acc = widened(tl.zeros([tile.BLOCK_P, tile.BLOCK_C], y.dtype.element_ty))
    for s in range(summed):
        from_c = c * multiplier + s if transposed else c // multiplier
        filter = from_c if transposed else c
        for i in range(rows.kernel):
            h, in_rows = read(oh, i, H, rows, transposed)
            for j in range(columns.kernel):
                w, in_columns = read(ow, j, W, columns, transposed)
                reads = inside & in_rows & in_columns
                v = tl.load(x + at(n, from_c, h, w, x_stride), reads, 0.0)
                v = gated(v, gate, at(n, from_c, h, w, gate_stride), reads, gate_activation)
                factor = tl.load(weight + at(filter, 0, i, j, w_stride), inside, 0.0)
                acc += widened(v) * widened(factor)
    at_residual = at(n, c, oh, ow, residual_stride)
    acc = finished(acc, scale, c, bias, bias_stride, residual, at_residual, inside, activation)
    tl.store(y + to, acc, inside)


def convolve(
    x,
    weight,
    y,
    stride,
    padding,
    dilation,
    groups,
    bias=None,
    residual=None,
    activation=0,
    gate=None,
    gate_activation=0,
    transposed=False,
    scale=None,
):
    """Launches the kernel that suits: y = act(x * weight * scale + bias + residual)."""
    if y.numel() == 0:
        return
    N, C, H, W = shape4(x)
    _, OC, OH, OW = shape4(y)
    (rows, columns), axes = taps_along(weight.shape[2:], stride, padding, dilation)
    int64 = is_wide([x, weight, residual, y], (H, W), (OH, OW), axes)
    strides = [strides4(t) if t is not None else (0, 0, 0, 0) for t in (x, gate, weight, residual)]
    x_stride, gate_stride, w_stride, residual_stride = strides
    bias_stride = bias.stride(0) if bias is not None else 0
    how = transposed, gate_activation, activation
    if is_depthwise(OC if transposed else C, groups):
        multiplier = weight.shape[0] // groups
        grid, total, tile = tiled(y, is_channels_last(y), int64)
        _depthwise_kernel[grid](
            *(x, gate, weight, scale, bias, residual, y, total, OC, H, W, OH, OW, multiplier),
            *(x_stride, gate_stride, w_stride, bias_stride, residual_stride),
            *(rows, columns, unrolled(multiplier if transposed else 1), *how, tile),
        )
        return
    C, OC = C // groups, OC // groups
    w_stride = (*w_stride, weight.shape[0] // groups * w_stride[0])
    pixels = N * OH * OW
    phases = 1
    if transposed:
        w_stride = (w_stride[1], w_stride[0], *w_stride[2:])
        phases = min(stride[0], OH) * min(stride[1], OW)
        pixels = N * triton.cdiv(OH, stride[0]) * triton.cdiv(OW, stride[1])
    block_m, block_n, block_k = BLOCKS[x.element_size()]
    block_m, block_n = block(pixels, block_m), block(OC, block_n)
    tiles = triton.cdiv(pixels, block_m)
    _conv2d_kernel[(triton.cdiv(OC, block_n) * groups * tiles * phases,)](
        *(x, gate, weight, scale, bias, residual, y, N, C, OC, H, W, OH, OW, groups),
        *(x_stride, gate_stride, w_stride, bias_stride, residual_stride, strides4(y)),
        *(rows, columns, tiles, *how, int64, block_m, block_n, block_k),
    )


def conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    arguments = (stride, padding, dilation, groups)
    y = OPS["conv2d"].fake(x, weight, bias, residual, *arguments, activation)
    convolve(x, weight, y, *arguments, bias, residual, activation)
    return y


def conv2d_packed(x, panels, weight_size, bias, residual, *rest):
    op = OPS["conv2d_packed_inference"]
    y = op.fake(x, panels, weight_size, bias, residual, *rest)
    *rest, groups, activation = rest
    weight = unpack(panels, weight_size, groups, x.dtype)
    convolve(x, weight, y, *rest, groups, bias, residual, activation)
    return y


def conv2d_winograd(x, panels, out_channels, bias, residual, padding, activation):
    op = OPS["conv2d_winograd_inference"]
    y = op.fake(x, panels, out_channels, bias, residual, padding, activation)
    weight = unpack_winograd(panels, out_channels, x.shape[1], x.dtype)
    convolve(x, weight, y, [1, 1], padding, [1, 1], 1, bias, residual, activation)
    return y


def conv2d_backward_input(grad_y, y, weight, input_size, channels_last, *arguments):
    op = OPS["conv2d_backward_input"]
    grad_x = op.fake(grad_y, y, weight, input_size, channels_last, *arguments)
    *arguments, activation = arguments
    convolve(
        grad_y,
        weight,
        grad_x,
        *arguments,
        gate=y,
        gate_activation=activation if y is not None else 0,
        transposed=True,
    )
    return grad_x


KERNELS = {
    "conv2d": conv2d,
    "conv2d_inference": conv2d,
    "conv2d_packed_inference": conv2d_packed,
    "conv2d_winograd_inference": conv2d_winograd,
    "conv2d_backward_input": conv2d_backward_input,
}
