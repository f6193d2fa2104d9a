"""max_pool2d: y[o] = max over the window's taps of x, NaN winning, the first of equal values kept.

Layout and split: _pool2d.py's tiles, of y forward and of grad_x backward. Training saves the
winning tap, i * kernel_w + j; backward gathers, each input summing in ascending order the outputs
that chose it: no atomics, the same bits at every run. Not timed yet.
"""

import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._pool2d import is_channels_last

from ._pool2d import (
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


@triton.jit
def _first_tap(start, window):
    """The first tap of a window from `start` that is not in the padding before the input."""
    return (tl.maximum(-start, 0) + window.dilation - 1) // window.dilation


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _max_pool2d_kernel(
    x,
    y,
    offsets,  # None in inference
    total,
    C,
    H,
    W,
    OH,
    OW,
    x_stride,
    rows,
    columns,
    tile,
):
    n, c, oh, ow, to, inside = locate(total, C, OH, OW, tile)
    top = oh * rows.stride - rows.padding
    left = ow * columns.stride - columns.padding

    # Should nothing exceed -inf, the first tap inside the input wins; tap 0 if there is none.
    first_i = _first_tap(top, rows)
    first_j = _first_tap(left, columns)
    some = (top + first_i * rows.dilation < H) & (left + first_j * columns.dilation < W)
    winner = tl.where(inside & some, first_i * columns.kernel + first_j, 0).to(tl.int32)
    best = widened(tl.full([tile.BLOCK_P, tile.BLOCK_C], float("-inf"), y.dtype.element_ty))

    for i in range(rows.kernel):
        h = top + i * rows.dilation
        for j in range(columns.kernel):
            w = left + j * columns.dilation
            tap_inside = inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            v = widened(tl.load(x + at(n, c, h, w, x_stride), tap_inside, float("-inf")))
            better = (v > best) | (v != v)
            best = tl.where(better, v, best)
            winner = tl.where(better, i * columns.kernel + j, winner)

    tl.store(y + to, best, inside)
    if offsets is not None:
        tl.store(offsets + to, winner, inside)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _max_pool2d_backward_kernel(
    grad_y,
    offsets,
    grad_x,
    total,
    C,
    H,
    W,
    OH,
    OW,
    grad_y_stride,
    offset_stride,
    rows,
    columns,
    rows_over,  # outputs that an input may be read by, per axis
    columns_over,
    tile,
):
    n, c, h, w, to, inside = locate(total, C, H, W, tile)
    first_oh = first_output_over(h, rows)
    first_ow = first_output_over(w, columns)
    grad = widened(tl.zeros([tile.BLOCK_P, tile.BLOCK_C], grad_x.dtype.element_ty))

    for a in range(rows_over):
        oh = first_oh + a
        down = h + rows.padding - oh * rows.stride
        reads_row = (oh < OH) & (down >= 0) & (down % rows.dilation == 0)
        for b in range(columns_over):
            ow = first_ow + b
            right = w + columns.padding - ow * columns.stride
            reads = reads_row & (ow < OW) & (right >= 0) & (right % columns.dilation == 0) & inside
            g = widened(tl.load(grad_y + at(n, c, oh, ow, grad_y_stride), reads, 0.0))
            winner = tl.load(offsets + at(n, c, oh, ow, offset_stride), reads, 0).to(tl.int32)
            tap = down // rows.dilation * columns.kernel + right // columns.dilation
            grad += tl.where(winner == tap, g, 0.0)

    tl.store(grad_x + to, grad, inside)


@triton.jit(do_not_specialize_on_alignment=SIZES)
def _max_pool2d_indices_kernel(
    offsets,
    indices,
    total,
    C,
    H,
    W,
    OH,
    OW,
    offset_stride,
    rows,
    columns,
    tile,
):
    n, c, oh, ow, to, inside = locate(total, C, OH, OW, tile)
    tap = tl.load(offsets + at(n, c, oh, ow, offset_stride), inside, 0).to(tl.int64)
    h = oh * rows.stride - rows.padding + tap // columns.kernel * rows.dilation
    w = ow * columns.stride - columns.padding + tap % columns.kernel * columns.dilation
    # A window wholly inside the padding has no index: the nearest input's is a harmless one.
    h = tl.minimum(tl.maximum(h, 0), H - 1)
    w = tl.minimum(tl.maximum(w, 0), W - 1)
    tl.store(indices + to, h * W + w, inside)


def _launch(x, y, offsets, kernel_size, stride, padding, dilation):
    _, C, H, W = shape4(x)
    OH, OW = y.shape[-2:]
    rows, columns = windows(kernel_size, stride, padding, dilation)
    int64 = needs_int64(x, y, reach=max(rows.reach(H, OH), columns.reach(W, OW)))
    grid, total, tile = tiled(y, is_channels_last(x), int64)
    window = specialised(rows), specialised(columns)
    _max_pool2d_kernel[grid](x, y, offsets, total, C, H, W, OH, OW, strides4(x), *window, tile)


def max_pool2d_inference(x, kernel_size, stride, padding, dilation, ceil_mode):
    y = OPS["max_pool2d_inference"].fake(x, kernel_size, stride, padding, dilation, ceil_mode)
    _launch(x, y, None, kernel_size, stride, padding, dilation)
    return y


def max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode):
    y, offsets = OPS["max_pool2d"].fake(x, kernel_size, stride, padding, dilation, ceil_mode)
    _launch(x, y, offsets, kernel_size, stride, padding, dilation)
    return y, offsets


def max_pool2d_backward(grad_y, offsets, input_size, *arguments):
    grad_x = OPS["max_pool2d_backward"].fake(grad_y, offsets, input_size, *arguments)
    _, C, H, W = shape4(grad_x)
    OH, OW = offsets.shape[-2:]
    rows, columns = windows(*arguments[:4])
    int64 = needs_int64(grad_y, offsets, grad_x, reach=max(rows.reach(H, OH), columns.reach(W, OW)))
    grid, total, tile = tiled(grad_x, is_channels_last(offsets), int64)
    _max_pool2d_backward_kernel[grid](
        *(grad_y, offsets, grad_x, total, C, H, W, OH, OW, strides4(grad_y), strides4(offsets)),
        *(specialised(rows), specialised(columns)),
        *(unrolled(rows.outputs_over(H, OH)), unrolled(columns.outputs_over(W, OW))),
        tile,
    )
    return grad_x


def max_pool2d_indices(offsets, input_size, *arguments):
    indices = OPS["max_pool2d_indices"].fake(offsets, input_size, *arguments)
    _, C, OH, OW = shape4(indices)
    H, W = input_size
    rows, columns = windows(*arguments[:4])
    int64 = needs_int64(offsets, indices, reach=max(rows.reach(H, OH), columns.reach(W, OW)))
    grid, total, tile = tiled(indices, is_channels_last(offsets), int64)
    _max_pool2d_indices_kernel[grid](
        *(offsets, indices, total, C, H, W, OH, OW, strides4(offsets)),
        *(specialised(rows), specialised(columns), tile),
    )
    return indices


KERNELS = {
    "max_pool2d": max_pool2d,
    "max_pool2d_inference": max_pool2d_inference,
    "max_pool2d_backward": max_pool2d_backward,
    "max_pool2d_indices": max_pool2d_indices,
}
