"""What every op is tested on, once: the shapes that the shipped models pool, and odd ones.

SPECS holds one Spec per op of torchext.ops.OPS; a new op is covered by every test once it has its
cases here. A Case is plain data; make_arguments() turns one into the tensors and numbers of a call.
"""

import itertools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from torchext.ops import OPS


@dataclass(frozen=True, eq=False)  # the same object is the same case
class Case:
    """One call: an input of `shape` and `layout`, and the arguments after it in the op's schema."""

    name: str
    shape: tuple
    arguments: tuple
    layout: str = "contiguous"


@dataclass(frozen=True)
class Spec:
    """How an op is tested.

    arguments  (values, x, *case.arguments) -> the op's arguments; `values` makes further tensors
    terms      (shape of x, *case.arguments) -> K, the length of the op's longest sum
    exact      (case) -> whether integers give results that every floating type holds exactly
    reordered  layouts may add up in another order: the same bits only where sums are exact
    """

    cases: tuple
    arguments: Callable = lambda values, x, *rest: (x, *rest)
    terms: Callable = lambda shape, *rest: 1
    exact: Callable = lambda case: True
    reordered: bool = False


# Layouts: functions that lay a dense tensor's values out otherwise. Memory that is not part of the
# tensor is NaN (255 in bytes), so that a kernel that reads it is found out. The expanded and the
# overlapping ones repeat values, as they must. Channels are dimension -3; a tensor of fewer
# dimensions than a layout speaks of stays as it is.


def _ones(*shape, like):
    """Memory with all bits set: NaN, 255 or -1."""
    size = math.prod(shape) * like.element_size()
    return torch.full((size,), 255, dtype=torch.uint8).view(like.dtype).view(shape)


def _channels_last(x):
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def _misaligned(x):
    memory = _ones(x.numel() + 1, like=x)
    return memory[1:].view(x.shape).copy_(x)


def _sliced(x):
    memory = _ones(*(n + 2 for n in x.shape), like=x)
    return memory[(slice(1, -1),) * x.dim()].copy_(x)


def _every_other(x):
    memory = _ones(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1], like=x)
    return memory[..., ::2, ::2].copy_(x)


def _every_other_channel(x):
    *batch, C, H, W = x.shape
    memory = _ones(*batch, H, W, 2 * C, like=x).movedim(-1, -3)
    return memory[..., ::2, :, :].copy_(x)


def _overlapping(x):
    strides = tuple(range(x.dim(), 0, -1))
    while sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True)) >= x.numel():
        strides = tuple(max(step - 1, 0) for step in strides)
    return x.reshape(-1).as_strided(x.shape, strides)


_LAYOUTS = {  # name: (the least dimensions, function)
    "contiguous": (0, torch.Tensor.contiguous),
    "channels_last": (3, _channels_last),
    "misaligned": (0, _misaligned),
    "channels_last_misaligned": (3, lambda x: _misaligned(x.movedim(-3, -1)).movedim(-1, -3)),
    "sliced": (1, _sliced),
    "channels_last_sliced": (3, lambda x: _sliced(x.movedim(-3, -1)).movedim(-1, -3)),
    "every_other": (2, _every_other),
    "every_other_channel": (3, _every_other_channel),
    "transposed": (2, lambda x: x.mT.contiguous().mT),
    "batch_inside": (1, lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0)),
    "expanded_batch": (1, lambda x: x[:1].expand_as(x)),
    "expanded_channels": (3, lambda x: x[..., :1, :, :].expand_as(x)),
    "expanded_columns": (1, lambda x: x[..., :1].expand_as(x)),
    "expanded": (1, lambda x: x.reshape(-1)[0].expand_as(x)),
    "overlapping": (1, _overlapping),
}


def _at_least(dimensions, function):
    return lambda x: function(x) if x.dim() >= dimensions and x.numel() else x.contiguous()


LAYOUTS = {name: _at_least(*layout) for name, layout in _LAYOUTS.items()}


# Values: (shape, dtype, generator) -> a dense tensor.


def normal(shape, dtype, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def integers(shape, dtype, generator):
    """Small enough that sums over any case are exact in their type."""
    most = 2 if dtype.itemsize == 2 else 8
    return torch.randint(-most, most + 1, shape, generator=generator).to(dtype)


def impulses(shape, dtype, generator):
    """A single 1 in each plane: shows where every tap goes."""
    planes = torch.zeros(shape, dtype=dtype).flatten(-2)
    if planes.numel() == 0:
        return planes.view(shape)
    at = torch.randint(planes.shape[-1], (*planes.shape[:-1], 1), generator=generator)
    return planes.scatter_(-1, at, 1).view(shape)


def specials(shape, dtype, generator):
    """Ties, infinities, NaN, both zeros and subnormal numbers among ordinary ones."""
    tiny = torch.finfo(dtype).smallest_normal / 4
    ordinary = [0.5, 1, -1, -0.0, 0.0, tiny, -tiny]
    numbers = torch.tensor([*ordinary * 3, torch.nan, torch.inf, -torch.inf], dtype=dtype)
    return numbers[torch.randint(len(numbers), shape, generator=generator)]


def make_arguments(op, case, dtype, values=normal):
    """The arguments of one call of `op`, on the CPU; the same ones at every call."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{op} {case.name}".encode()))
    layout = LAYOUTS[case.layout]

    def make(shape, dtype=dtype):
        return layout(values(shape, dtype, generator))

    return SPECS[op].arguments(make, make(case.shape), *case.arguments)


def named(op, names):
    """An op's cases of these names: a few that stand for all. All, if it has none of them."""
    return [case for case in SPECS[op].cases if case.name in names] or [*SPECS[op].cases]


def with_layout(case, layout):
    return replace(case, name=f"{case.name}-{layout}", layout=layout)


# What Triton's interpreter runs too: it takes 100,000 times as long as a kernel.
INTERPRETED = {
    "one-pixel",
    "kernel-is-input",
    "ceil-cut-padded",
    "padded-small",
    "padded-small-channels_last",
    "tall-kernel",
    "flat-kernel-channels_last",
    "stride-over-kernel-channels_last",
    "empty-batch",
    "unbatched",
    "columns-17",
    "channels-17",
    "dilated-down",
    "window-in-padding-columns-channels_last",
    "counted-False-7-channels_last",
    "counted-True-None-contiguous",
    "one-window-over-256-taps",
    "one-channel",
    "upsampled",
    "row-of-columns",
    "no-outputs",
}


# Sliding pools: (name, shape, kernel, stride, padding, dilation, ceil_mode, layout).


def _pair(value):
    return [value, value] if isinstance(value, int) else list(value)


def _pool(name, shape, kernel, stride=None, padding=0, dilation=1, ceil=False, layout="contiguous"):
    stride = kernel if stride is None else stride
    arguments = (_pair(kernel), _pair(stride), _pair(padding), _pair(dilation), ceil)
    return Case(name, shape, arguments, layout)


def _both(*args, **kwargs):
    case = _pool(*args, **kwargs)
    return case, with_layout(case, "channels_last")


# What the models pool. Channels are cut to a few, never a multiple of a vector, to keep tests fast;
# the benchmarks run them whole.
MODELS = [
    *_both("alexnet-1", (1, 19, 55, 55), 3, 2),
    *_both("alexnet-2", (1, 19, 27, 27), 3, 2),
    *_both("alexnet-5", (2, 35, 13, 13), 3, 2),
    *_both("vgg-1", (1, 3, 224, 224), 2),
    *_both("vgg-4", (2, 35, 28, 28), 2),
    *_both("vgg-5", (1, 70, 14, 14), 2),
    *_both("googlenet-1", (1, 9, 112, 112), 3, 2, ceil=True),
    *_both("googlenet-3", (1, 19, 28, 28), 3, 2, ceil=True),
    *_both("googlenet-4", (2, 35, 14, 14), 2, ceil=True),
    *_both("googlenet-3-branch", (1, 19, 28, 28), 3, 1, padding=1, ceil=True),
    *_both("googlenet-5-branch", (2, 35, 7, 7), 3, 1, padding=1, ceil=True),
    *_both("resnet-stem", (1, 19, 112, 112), 3, 2, padding=1),
]
ODD = [
    *_both("one-pixel", (1, 1, 1, 1), 1),
    *_both("one-pixel-per-channel", (2, 7, 1, 1), 1),
    *_both("one-channel", (2, 1, 5, 7), 2, 1),
    *_both("seven", (2, 7, 7, 7), 3, 1),
    *_both("primes", (3, 5, 11, 13), 3, 2),
    *_both("kernel-is-input", (2, 3, 7, 5), (7, 5)),
    *_both("stride-over-kernel", (2, 3, 17, 19), 2, 5),
    *_both("tall-kernel", (1, 4, 14, 9), (5, 1), (2, 1), (2, 0)),
    *_both("flat-kernel", (1, 4, 9, 14), (1, 5), (1, 3), (0, 2)),
    *_both("ceil-cut", (2, 3, 6, 8), 3, 2, ceil=True),
    *_both("ceil-cut-padded", (1, 5, 10, 9), 4, 3, padding=2, ceil=True),
    *_both("ceil-starts-in-padding", (1, 3, 5, 6), 2, 3, padding=1, ceil=True),
    *_both("ceil-over-input", (2, 3, 1, 2), 3, ceil=True),
    *_both("padded-small", (2, 3, 2, 2), 3, 1, padding=1),
    *_both("256-taps", (1, 3, 18, 21), 16, 2),
    *_both("257-taps", (1, 2, 2, 260), (1, 257), 1),
    *_both("over-256-taps", (1, 3, 20, 23), 17, 3, padding=8),
    *_both("one-window-over-256-taps", (1, 2, 17, 17), 17),
    *_both("empty-batch", (0, 3, 8, 8), 3, 2, padding=1),
    _pool("unbatched", (3, 9, 10), 3, 2, padding=1),
    _pool("unbatched-channels-last", (3, 9, 10), 3, 2, padding=1, layout="channels_last"),
    # Vector widths and their neighbours: NCHW's lanes run along a row of outputs, four vectors at a
    # time, channels_last's along the channels, in blocks of 64 where rows are few.
    *(_pool(f"columns-{w}", (1, 2, 3, w + 1), 2, 1) for w in (15, 16, 17, 31, 33, 63, 65, 257)),
    *(_pool(f"even-columns-{w}", (1, 2, 4, 2 * w), 2) for w in (7, 8, 15, 16, 17, 33, 65)),
    *(_pool(f"third-columns-{w}", (1, 2, 3, 3 * w), 3, padding=1) for w in (7, 17, 33)),
    *(
        _pool(f"channels-{c}", (1, c, 4, 5), 3, 1, padding=1, layout="channels_last")
        for c in (15, 16, 17, 31, 33, 63, 64, 65, 129, 257)
    ),
    _pool("blocks-strided", (2, 130, 9, 8), 3, 2, padding=1, layout="channels_last"),
    _pool("blocks-of-two", (1, 130, 5, 6), 2, 3, layout="channels_last"),
    _pool("many-rows", (4, 67, 20, 3), 2, 1, layout="channels_last"),
]
DILATED = [
    _pool("blocks-dilated", (1, 130, 7, 8), 3, 1, padding=1, dilation=2, layout="channels_last"),
    *_both("dilated", (2, 3, 17, 13), 3, 2, padding=1, dilation=2),
    *_both("dilated-down", (1, 5, 12, 9), (3, 2), 1, dilation=(3, 1)),
    *_both("dilated-ceil", (1, 4, 11, 19), 2, (2, 3), padding=1, dilation=3, ceil=True),
    *_both("dilated-over-256-taps", (1, 2, 33, 35), 17, 1, padding=3, dilation=2),
    # Windows that lie wholly in the padding, where torch's own kernel writes out of bounds.
    *_both("window-in-padding", (3, 17, 1, 19), (2, 3), padding=1, dilation=(2, 1)),
    *_both("window-in-padding-columns", (2, 3, 6, 3), 2, 1, padding=1, dilation=(1, 4)),
]


def _averaged(pools):
    """The same pools as averages, with the ways to count taken in turn; no average dilates."""
    ways = itertools.cycle([(True, None), (False, None), (True, 5), (False, -3)])
    for case in pools:
        kernel_size, stride, padding, _, ceil_mode = case.arguments
        yield replace(case, arguments=(kernel_size, stride, padding, ceil_mode, *next(ways)))


AVERAGES = [*_averaged([*MODELS, *ODD])] + [
    # Every way to count, where windows are cut on all sides.
    Case(f"counted-{pad}-{divisor}-{layout}", (2, 5, 7, 9), (*window, pad, divisor), layout)
    for window in [([3, 4], [2, 3], [1, 2], True)]
    for pad in (True, False)
    for divisor in (None, 1, 7, -2)
    for layout in ("contiguous", "channels_last")
]


def _adaptive(name, shape, output_size):
    case = Case(name, shape, (_pair(output_size),))
    return [case] if len(shape) == 3 else [case, with_layout(case, "channels_last")]


ADAPTIVE = [
    *_adaptive("alexnet", (1, 35, 6, 6), 6),
    *_adaptive("vgg", (1, 35, 7, 7), 7),
    *_adaptive("vgg-other-size", (1, 9, 9, 12), 7),
    *_adaptive("resnet-global", (2, 131, 7, 7), 1),
    *_adaptive("large-global", (1, 3, 57, 61), 1),
    *_adaptive("one-pixel", (2, 3, 1, 1), 1),
    *_adaptive("one-channel", (2, 1, 5, 6), (2, 3)),
    *_adaptive("upsampled", (1, 3, 4, 5), (9, 7)),
    *_adaptive("primes", (2, 7, 13, 17), (5, 11)),
    *_adaptive("halves", (2, 5, 8, 8), 4),
    *_adaptive("row-of-columns", (1, 4, 6, 33), (6, 1)),
    *_adaptive("no-outputs", (2, 3, 4, 4), (0, 2)),
    *_adaptive("empty-batch", (0, 3, 6, 6), 2),
    *_adaptive("unbatched", (5, 9, 7), (3, 2)),
    *(
        Case(f"channels-{c}", (1, c, 5, 4), ([2, 3],), "channels_last")
        for c in (15, 16, 17, 31, 33, 63, 65, 129)
    ),
]


# How the ops of one family share those cases.


def _taps(shape, kernel_size, *rest):
    return math.prod(kernel_size)


def _longest_window(size, outputs):
    return min(size, -(-size // max(outputs, 1)) + 1)


def _adaptive_taps(shape, output_size):
    return math.prod(map(_longest_window, shape[-2:], output_size))


def _adaptive_shares(shape, output_size):
    return math.prod(map(_longest_window, output_size, shape[-2:]))


def _dense_like(x, tensor):
    """`tensor` as an op would have returned it for input x."""
    channels_last = torch._prims_common.suggest_memory_format(x) is torch.channels_last
    return _channels_last(tensor) if x.dim() == 4 and channels_last else tensor.contiguous()


def _max_backward(values, x, *rest):
    _, offsets = OPS["max_pool2d"].decomposition(x, *rest)
    return values(offsets.shape), _dense_like(x, offsets), list(x.shape[-2:]), *rest


def _max_indices(values, x, *rest):
    return _max_backward(values, x, *rest)[1:]


def _avg_backward(values, x, *rest):
    y = OPS["avg_pool2d"].decomposition(x, *rest)
    channels_last = _dense_like(x, x).stride() != x.contiguous().stride()
    return values(y.shape), list(x.shape[-2:]), channels_last, *rest


def _adaptive_backward(values, x, output_size):
    channels_last = _dense_like(x, x).stride() != x.contiguous().stride()
    return values((*x.shape[:-2], *output_size)), list(x.shape[-2:]), channels_last


def _power_of_two(n):
    return n & (n - 1) == 0


def _avg_shares_exactly(case):
    """A gradient divided by a power of two stays exact; windows that count alike all divide so."""
    kernel_size, _, _, ceil_mode, count_include_pad, divisor = case.arguments
    counts_alike = count_include_pad and not ceil_mode
    return _power_of_two(abs(divisor or (math.prod(kernel_size) if counts_alike else 3)))


def _adaptive_shares_exactly(case):
    sizes = zip(case.shape[-2:], case.arguments[0], strict=True)
    return all(out and n % out == 0 and _power_of_two(n // out) for n, out in sizes)


_MAX = (*MODELS, *ODD, *DILATED)
SPECS = {
    "max_pool2d": Spec(_MAX),
    "max_pool2d_inference": Spec(_MAX),
    "max_pool2d_backward": Spec(_MAX, _max_backward, _taps),
    "max_pool2d_indices": Spec(_MAX, _max_indices),
    "avg_pool2d": Spec((*AVERAGES,), terms=_taps, reordered=True),
    "avg_pool2d_inference": Spec((*AVERAGES,), terms=_taps, reordered=True),
    "avg_pool2d_backward": Spec((*AVERAGES,), _avg_backward, _taps, _avg_shares_exactly),
    "adaptive_avg_pool2d": Spec((*ADAPTIVE,), terms=_adaptive_taps, reordered=True),
    "adaptive_avg_pool2d_inference": Spec((*ADAPTIVE,), terms=_adaptive_taps, reordered=True),
    "adaptive_avg_pool2d_backward": Spec(
        (*ADAPTIVE,), _adaptive_backward, _adaptive_shares, _adaptive_shares_exactly
    ),
}
