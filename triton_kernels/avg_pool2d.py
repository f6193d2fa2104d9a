"""avg_pool2d and adaptive_avg_pool2d: y[o] = sum over the window of x / divisor.

Layout and split: _pool2d.py's tiles, of y forward and of grad_x backward; backward gathers, each
input summing in ascending order its shares of the outputs that averaged it. A window of
WIDE_WINDOW taps or more (global averages) is spread over a whole program instead, which adds it up
by a fixed tree. Not timed yet.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._pool2d import is_channels_last

from ._pool2d import (
    LANES,
    SIZES,
    at,
    first_output_over,
    locate,
    needs_int64,
    shape4,
    specialised,
    strides4,
    tiled,
    unrolled,
    widened,
    windows,
)

WIDE_WINDOW = 32  # taps: a warp's worth of work for one output; not swept yet
WIDE_TILE = 4096  # elements of a channels_last tile: a 7 x 7 window of 64 channels at once
WIDE_TILE_NCHW = 1024  # of scalar loads: 8 a thread


@triton.jit
def _averaged(o, size, outputs, window, count_include_pad, adaptive):
    """The inputs along an axis that output o averages: begin, end, how many its divisor counts."""
    if adaptive:
        begin = o * size // outputs
        end = (o * size + size + outputs - 1) // outputs
        return begin, end, end - begin
    else:
        # Padding on the right counts only up to `padding`: a ceil_mode window may reach further.
        start = o * window.stride - window.padding
        padded_end = tl.minimum(start + window.kernel, size + window.padding)
        begin = tl.maximum(start, 0)
        end = tl.minimum(padded_end, size)
        return begin, end, (padded_end - start if count_include_pad else end - begin)


@triton.jit
def _divided(total, divisor):
    """total / divisor, correctly rounded."""
    divisor = divisor.to(total.dtype)
    return total / divisor if total.dtype == tl.float64 else tl.div_rn(total, divisor)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _average_kernel(
    x,
    y,
    total,
    C,
    H,
    W,
    OH,
    OW,
    x_stride,
    rows,
    columns,
    count_include_pad: tl.constexpr,
    override,  # of the divisor; 0: none
    adaptive: tl.constexpr,
    tile,
):
    n, c, oh, ow, to, inside = locate(total, C, OH, OW, tile)
    top, bottom, height = _averaged(oh, H, OH, rows, count_include_pad, adaptive)
    left, right, width = _averaged(ow, W, OW, columns, count_include_pad, adaptive)
    sum = widened(tl.zeros([tile.BLOCK_P, tile.BLOCK_C], y.dtype.element_ty))
    for i in range(rows.kernel):
        for j in range(columns.kernel):
            h = top + i
            w = left + j
            tap_inside = inside & (h < bottom) & (w < right)
            sum += widened(tl.load(x + at(n, c, h, w, x_stride), tap_inside, 0.0))
    divisor = tl.where(override != 0, override, height * width)
    tl.store(y + to, _divided(sum, divisor), inside)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _average_wide_kernel(
    x,
    y,
    C,
    H,
    W,
    OH,
    OW,
    x_stride,
    y_stride,
    rows,
    columns,
    count_include_pad: tl.constexpr,
    override,
    adaptive: tl.constexpr,
    channels_last: tl.constexpr,
    int64: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One output pixel of BLOCK_C channels: the window row by row, BLOCK_T columns at a time."""
    pixel = tl.program_id(0)
    lane = tl.program_id(1)
    if int64:
        pixel = pixel.to(tl.int64)
        lane = lane.to(tl.int64)
    ow = pixel % OW
    oh = pixel // OW % OH
    n = pixel // OW // OH
    top, bottom, height = _averaged(oh, H, OH, rows, count_include_pad, adaptive)
    left, right, width = _averaged(ow, W, OW, columns, count_include_pad, adaptive)

    # Threads run along the axis that is contiguous in x, the tile's last.
    taps: tl.constexpr = 0 if channels_last else 1
    c = tl.expand_dims(lane * BLOCK_C + tl.arange(0, BLOCK_C), taps)
    t = tl.expand_dims(tl.arange(0, BLOCK_T), 1 - taps)
    sums = widened(tl.zeros_like(c + t).to(x.dtype.element_ty))
    for h in range(top, bottom):
        for w in range(left, right, BLOCK_T):
            tap_inside = (w + t < right) & (c < C)
            sums += widened(tl.load(x + at(n, c, h, w + t, x_stride), tap_inside, 0.0))
    sum = tl.sum(sums, axis=taps, keep_dims=True)
    divisor = tl.where(override != 0, override, height * width)
    tl.store(y + at(n, c, oh, ow, y_stride), _divided(sum, divisor), c < C)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _average_backward_kernel(
    grad_y,
    grad_x,
    total,
    C,
    H,
    W,
    OH,
    OW,
    grad_y_stride,
    rows,
    columns,
    rows_over,  # outputs that may average an input, per axis
    columns_over,
    count_include_pad: tl.constexpr,
    override,
    adaptive: tl.constexpr,
    tile,
):
    n, c, h, w, to, inside = locate(total, C, H, W, tile)
    first_oh = h * OH // H if adaptive else first_output_over(h, rows)
    first_ow = w * OW // W if adaptive else first_output_over(w, columns)
    grad = widened(tl.zeros([tile.BLOCK_P, tile.BLOCK_C], grad_x.dtype.element_ty))
    for a in range(rows_over):
        oh = first_oh + a
        top, bottom, height = _averaged(oh, H, OH, rows, count_include_pad, adaptive)
        in_rows = (oh < OH) & (top <= h) & (h < bottom)
        for b in range(columns_over):
            ow = first_ow + b
            left, right, width = _averaged(ow, W, OW, columns, count_include_pad, adaptive)
            averaged = in_rows & (ow < OW) & (left <= w) & (w < right)
            g = widened(tl.load(grad_y + at(n, c, oh, ow, grad_y_stride), inside & averaged, 0.0))
            divisor = tl.where(override != 0, override, height * width)
            one = tl.full([], 1, grad.dtype)
            grad += g * _divided(one, tl.where(averaged, divisor, 1))  # one division a pixel
    tl.store(grad_x + to, grad, inside)


class AdaptiveWindow(NamedTuple):
    """An axis split into windows that may overlap by one; `kernel` is the longest's length."""

    kernel: int

    @staticmethod
    def over(size, outputs):
        longest = size // outputs + (2 if size % outputs else 0) if outputs else 0
        return AdaptiveWindow(min(size, longest))

    def outputs_over(self, size, outputs):
        return AdaptiveWindow.over(outputs, size).kernel

    def reach(self, size, outputs):
        return size * (outputs + 1) + outputs


def _one_row(H, W):
    """A plane that is averaged whole, as one long row: simpler addresses."""
    return 1, H * W, AdaptiveWindow(1), AdaptiveWindow(H * W)


def average(x, y, rows, columns, count_include_pad=True, override=None):
    """Launches the forward kernel that suits the window."""
    _, C, H, W = shape4(x)
    OH, OW = y.shape[-2:]
    channels_last = is_channels_last(x)
    adaptive = isinstance(rows, AdaptiveWindow)
    taps = rows.kernel * columns.kernel
    int64 = needs_int64(x, y, reach=max(rows.reach(H, OH), columns.reach(W, OW), taps))
    how = count_include_pad, override or 0, adaptive
    if taps < WIDE_WINDOW:
        grid, total, tile = tiled(y, channels_last, int64)
        _average_kernel[grid](
            *(x, y, total, C, H, W, OH, OW, strides4(x)),
            *(specialised(rows), specialised(columns), *how, tile),
        )
        return
    stride = strides4(x)
    if adaptive and OH == OW == 1 and stride[2] == W * stride[3]:
        H, W, rows, columns = _one_row(H, W)
    columns_at_once = triton.next_power_of_2(columns.kernel)
    channels_at_once = triton.next_power_of_2(C)
    if channels_last:
        block_c = min(channels_at_once, LANES * 16 // x.element_size())
        block_t = min(columns_at_once, WIDE_TILE // block_c)
    else:
        block_t = min(columns_at_once, WIDE_TILE_NCHW)
        block_c = min(channels_at_once, WIDE_TILE_NCHW // block_t)
    grid = (y.numel() // C, triton.cdiv(C, block_c))
    _average_wide_kernel[grid](
        *(x, y, C, H, W, OH, OW, stride, strides4(y), rows, columns),
        *(*how, channels_last, int64, block_t, block_c),
    )


def average_backward(
    grad_y, grad_x, rows, columns, channels_last, count_include_pad=True, override=None
):
    _, C, H, W = shape4(grad_x)
    OH, OW = grad_y.shape[-2:]
    reach = max(rows.reach(H, OH), columns.reach(W, OW), rows.kernel * columns.kernel)
    grid, total, tile = tiled(grad_x, channels_last, needs_int64(grad_y, grad_x, reach=reach))
    adaptive = isinstance(rows, AdaptiveWindow)
    if adaptive and OH == OW == 1:
        H, W, rows, columns = _one_row(H, W)
    _average_backward_kernel[grid](
        *(grad_y, grad_x, total, C, H, W, OH, OW, strides4(grad_y)),
        *(specialised(rows), specialised(columns)),
        *(unrolled(rows.outputs_over(H, OH)), unrolled(columns.outputs_over(W, OW))),
        *(count_include_pad, override or 0, adaptive, tile),
    )


def avg_pool2d(
    x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None
):
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    y = OPS["avg_pool2d"].fake(x, *arguments)
    rows, columns = windows(kernel_size, stride, padding)
    if list(kernel_size) == list(x.shape[-2:]) and not any(padding):  # a global average
        rows, columns = AdaptiveWindow(kernel_size[0]), AdaptiveWindow(kernel_size[1])
    average(x, y, rows, columns, count_include_pad, divisor_override)
    return y


def avg_pool2d_backward(
    grad_y,
    input_size,
    channels_last,
    kernel_size,
    stride,
    padding,
    ceil_mode,
    count_include_pad,
    divisor_override=None,
):
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    grad_x = OPS["avg_pool2d_backward"].fake(grad_y, input_size, channels_last, *arguments)
    channels_last = channels_last and grad_y.dim() == 4
    rows, columns = windows(kernel_size, stride, padding)
    average_backward(
        grad_y, grad_x, rows, columns, channels_last, count_include_pad, divisor_override
    )
    return grad_x


KERNELS = {
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_inference": avg_pool2d,
    "avg_pool2d_backward": avg_pool2d_backward,
}
