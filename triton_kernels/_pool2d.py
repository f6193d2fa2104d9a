"""What the pooling kernels share: windows, index arithmetic, and how a dense tensor is tiled.

A tile is [BLOCK_P, BLOCK_C]. In channels_last its rows are pixels (n, h, w) and its columns
channels: a thread takes 16 bytes along C. In NCHW it is one column of elements (n, c, h, w), one
a thread. Either way an element's place in memory is its flat index.
"""

from typing import NamedTuple

import triton
import triton.language as tl

THREADS = 128  # a program's (Triton's default): few, so that small images fill a GPU too
LANES = 16  # threads along C: 256 contiguous bytes of a pixel
UNROLLED = 4  # loops up to this long are unrolled, each a specialisation; longer ones share one

# Only strides and C need to be known as multiples of 16; a size of 1 folds divisions away.
SIZES = ("total", "H", "W", "OH", "OW")


class Window(NamedTuple):
    """Along one axis, tap t of output o reads input o * stride - padding + t * dilation."""

    kernel: int
    stride: int
    padding: int
    dilation: int

    def outputs_over(self, size, outputs):
        """How many windows span one input, at most."""
        return min(outputs, (self.kernel - 1) * self.dilation // self.stride + 1)

    def reach(self, size, outputs):
        """No index computed along an axis of `size` is larger."""
        return size + 2 * self.padding + self.kernel * self.dilation + self.stride


def windows(kernel_size, stride, padding, dilation=(1, 1)):
    """Those along rows and columns."""
    return [Window(*axis) for axis in zip(kernel_size, stride, padding, dilation, strict=True)]


def specialised(window):
    """The window, as constants if it is short."""
    return type(window)(*map(tl.constexpr, window)) if window.kernel <= UNROLLED else window


def unrolled(length):
    """The bound of a loop, as a constant if it is short."""
    return tl.constexpr(length) if length <= UNROLLED else length


def shape4(x):
    """Sizes as (n, c, h, w): a 3-d tensor is a batch of one."""
    return (1,) * (4 - x.dim()) + tuple(x.shape)


def strides4(x):
    """The strides of shape4(x); 0 along a size of 1, which hides nothing about alignment."""
    strides = (0,) * (4 - x.dim()) + x.stride()
    return tuple(s if n > 1 else 0 for n, s in zip(shape4(x), strides, strict=True))


def needs_int64(*tensors, reach=0):
    """Whether an index may need more than 31 bits (2^16: the last tile's lanes beyond the end)."""
    spans = (sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) for x in tensors)
    return max(reach, *spans) + 2**16 >= 2**31


class Tile(NamedTuple):
    """How locate() finds a program's tile: constants."""

    channels_last: bool
    int64: bool  # index arithmetic
    BLOCK_P: int
    BLOCK_C: int


def tiled(x, channels_last, int64):
    """(grid, rows of tiles in all, Tile) that cover a dense tensor."""
    n, c, h, w = shape4(x)
    if channels_last:
        vector = 16 // x.element_size()
        block_c = min(triton.next_power_of_2(c), LANES * vector)
        total, block_p, columns = n * h * w, THREADS * vector // block_c, triton.cdiv(c, block_c)
    else:
        total, block_p, columns, block_c = n * c * h * w, THREADS, 1, 1
    tile = Tile(*map(tl.constexpr, (channels_last, int64, block_p, block_c)))
    return (triton.cdiv(total, block_p), columns), total, tile


@triton.jit
def locate(total, C, H, W, tile):
    """(n, c, h, w, flat index, whether inside) of this program's tile of an N x C x H x W."""
    p = tl.program_id(0)
    lane = tl.program_id(1)
    if tile.int64:
        p = p.to(tl.int64)
        lane = lane.to(tl.int64)
    p = p * tile.BLOCK_P + tl.arange(0, tile.BLOCK_P)[:, None]
    lane = lane * tile.BLOCK_C + tl.arange(0, tile.BLOCK_C)[None, :]
    w = p % W
    h = p // W % H
    rest = p // W // H
    if tile.channels_last:
        return rest, lane, h, w, p * C + lane, (p < total) & (lane < C)
    else:
        return rest // C, rest % C, h, w, p, p < total


@triton.jit
def at(n, c, h, w, stride):
    """Where an element lies, counted in elements."""
    return n * stride[0] + c * stride[1] + h * stride[2] + w * stride[3]


@triton.jit
def widened(v):
    """In the type that is computed in: float32, or float64 for float64."""
    return v if v.dtype == tl.float64 else v.to(tl.float32)


@triton.jit
def first_output_over(i, window):
    """The first output along an axis whose window spans input i."""
    beyond = i + window.padding - (window.kernel - 1) * window.dilation
    return (tl.maximum(beyond, 0) + window.stride - 1) // window.stride
