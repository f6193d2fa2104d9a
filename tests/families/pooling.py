"""Pooling: the shapes that the shipped models pool, and odd ones."""

import itertools
import math
from dataclasses import replace

import hypothesis.strategies as st
import torch

from torchext.ops import OPS

from .case import Case, Spec, dense_like, pair, with_layout

HUGE = 2**62
INT32_MAX = 2**31 - 1
LARGE = [INT32_MAX, 2**31, HUGE, 2**63 - 1]

# Sliding pools: (name, shape, kernel, stride, padding, dilation, ceil_mode, layout).


def _pool(name, shape, kernel, stride=None, padding=0, dilation=1, ceil=False, layout="contiguous"):
    stride = kernel if stride is None else stride
    arguments = (pair(kernel), pair(stride), pair(padding), pair(dilation), ceil)
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
    case = Case(name, shape, (pair(output_size),))
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


def _max_backward(values, x, *rest):
    _, offsets = OPS["max_pool2d"].decomposition(x, *rest)
    return values(offsets.shape), dense_like(x, offsets), list(x.shape[-2:]), *rest


def _max_indices(values, x, *rest):
    return _max_backward(values, x, *rest)[1:]


def _avg_backward(values, x, *rest):
    y = OPS["avg_pool2d"].decomposition(x, *rest)
    channels_last = dense_like(x, x).stride() != x.contiguous().stride()
    return values(y.shape), list(x.shape[-2:]), channels_last, *rest


def _adaptive_backward(values, x, output_size):
    channels_last = dense_like(x, x).stride() != x.contiguous().stride()
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


# Bad input.


def filled(*shape, dtype=torch.float32):
    return (
        torch.arange(max(1, torch.Size(shape).numel()))
        .to(dtype)[: torch.Size(shape).numel()]
        .view(shape)
    )


def _max(shape=(2, 3, 8, 8), kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), **kw):
    return "max_pool2d", (filled(*shape, **kw), kernel, stride, padding, dilation, False)


def _avg(shape=(2, 3, 8, 8), kernel=(2, 2), stride=(2, 2), padding=(0, 0), divisor=None, **kw):
    return "avg_pool2d", (filled(*shape, **kw), kernel, stride, padding, False, True, divisor)


def _adaptive(shape=(2, 3, 8, 8), size=(1, 1), **kw):
    return "adaptive_avg_pool2d", (filled(*shape, **kw), size)


def _max_back(grad=None, offsets=None, input_size=(8, 8), kernel=(2, 2)):
    grad = filled(2, 3, 4, 4) if grad is None else grad
    offsets = torch.zeros(2, 3, 4, 4, dtype=torch.uint8) if offsets is None else offsets
    rest = (input_size, kernel, (2, 2), (0, 0), (1, 1), False)
    return "max_pool2d_backward", (grad, offsets, *rest)


def _avg_back(grad=None, input_size=(8, 8), kernel=(2, 2)):
    grad = filled(2, 3, 4, 4) if grad is None else grad
    return "avg_pool2d_backward", (
        grad,
        input_size,
        False,
        kernel,
        (2, 2),
        (0, 0),
        False,
        True,
        None,
    )


def _adaptive_back(grad=None, input_size=(8, 8)):
    return "adaptive_avg_pool2d_backward", (
        filled(2, 3, 4, 4) if grad is None else grad,
        input_size,
        False,
    )


def _indices(offsets=None, input_size=(8, 8)):
    offsets = torch.zeros(2, 3, 4, 4, dtype=torch.uint8) if offsets is None else offsets
    return "max_pool2d_indices", (offsets, input_size, (2, 2), (2, 2), (0, 0), (1, 1), False)


# (what is wrong, the argument that the message must name, the call)
REFUSED = [
    *(
        (f"{pool.__name__[1:]}: {what}", argument, pool(**wrong))
        for pool in (_max, _avg)
        for what, argument, wrong in [
            ("stride 0", "stride", {"stride": (0, 2)}),
            ("stride -1", "stride", {"stride": (2, -1)}),
            ("kernel 0", "kernel_size", {"kernel": (2, 0)}),
            ("kernel -2", "kernel_size", {"kernel": (-2, 2)}),
            ("three kernel sizes", "kernel_size", {"kernel": (2, 2, 2)}),
            ("three strides", "stride", {"stride": (2, 2, 2)}),
            ("padding -1", "padding", {"padding": (-1, 0)}),
            ("padding over half", "padding", {"padding": (0, 2)}),
            ("padding 2^62", "padding", {"padding": (HUGE, HUGE)}),
            ("kernel over the input", "kernel_size", {"kernel": (9, 2)}),
            ("kernel 2^62", "kernel_size", {"kernel": (HUGE, 2)}),
            ("H = 0", "input", {"shape": (2, 3, 0, 8)}),
            ("C = 0", "input", {"shape": (2, 0, 8, 8)}),
            ("2-d", "input", {"shape": (8, 8)}),
            ("5-d", "input", {"shape": (1, 2, 3, 8, 8)}),
            ("int64", "input", {"dtype": torch.int64}),
            ("bool", "input", {"dtype": torch.bool}),
            ("complex", "input", {"dtype": torch.complex64}),
        ]
    ),
    ("dilation 0", "dilation", _max(dilation=(0, 1))),
    ("dilation 2^62 of 3 taps", "dilation", _max(kernel=(3, 3), dilation=(HUGE, 1))),
    ("dilation over the input", "kernel_size", _max(dilation=(8, 1))),
    ("dilation 2^31 - 1 of 2 taps", "kernel_size", _max(dilation=(INT32_MAX, 1))),
    ("dilation 2^62 of 2 taps", "kernel_size", _max(dilation=(1, HUGE))),
    ("padding over half a dilated kernel", "padding", _max(padding=(2, 0), dilation=(3, 1))),
    ("divisor 0", "divisor_override", _avg(divisor=0)),
    ("adaptive: size -1", "output_size", _adaptive(size=(-1, 1))),
    ("adaptive: three sizes", "output_size", _adaptive(size=(1, 1, 1))),
    ("adaptive: H = 0", "input", _adaptive(shape=(2, 3, 0, 8))),
    ("adaptive: 2-d", "input", _adaptive(shape=(8, 8))),
    ("adaptive: int64", "input", _adaptive(dtype=torch.int64)),
    ("grad of another shape", "grad_y", _max_back(grad=filled(2, 3, 4, 5))),
    ("grad of another rank", "grad_y", _max_back(grad=filled(3, 4, 4))),
    ("grad of integers", "grad_y", _max_back(grad=filled(2, 3, 4, 4, dtype=torch.int64))),
    ("offsets of another shape", "offsets", _max_back(offsets=torch.zeros(2, 3, 5, 4).byte())),
    ("offsets of int64", "offsets", _max_back(offsets=torch.zeros(2, 3, 4, 4).long())),
    (
        "offsets of int32 for a small window",
        "offsets",
        _max_back(offsets=torch.zeros(2, 3, 4, 4).int()),
    ),
    ("input_size 0", "input_size", _max_back(input_size=(0, 8))),
    ("input_size -1", "input_size", _max_back(input_size=(8, -1))),
    ("three input sizes", "input_size", _max_back(input_size=(8, 8, 8))),
    ("input_size of another output", "offsets", _max_back(input_size=(20, 8))),
    ("indices: input_size 0", "input_size", _indices(input_size=(0, 8))),
    ("indices: float offsets", "offsets", _indices(offsets=filled(2, 3, 4, 4))),
    ("avg grad of another shape", "grad_y", _avg_back(grad=filled(2, 3, 4, 5))),
    ("avg grad 2-d", "grad_y", _avg_back(grad=filled(4, 4))),
    ("avg grad 5-d", "grad_y", _avg_back(grad=filled(1, 2, 3, 4, 4))),
    ("avg grad of integers", "grad_y", _avg_back(grad=filled(2, 3, 4, 4, dtype=torch.int64))),
    ("avg input_size 0", "input_size", _avg_back(input_size=(0, 8))),
    ("avg input_size -1", "input_size", _avg_back(input_size=(8, -1))),
    ("avg input_size 2^62", "grad_y", _avg_back(input_size=(HUGE, 8))),
    ("avg input_size of another output", "grad_y", _avg_back(input_size=(8, 20))),
    ("three avg input sizes", "input_size", _avg_back(input_size=(8, 8, 8))),
    ("input_size 2^62", "offsets", _max_back(input_size=(HUGE, 8))),
    ("indices: input_size 2^62", "offsets", _indices(input_size=(8, HUGE))),
    ("indices: offsets 5-d", "offsets", _indices(offsets=torch.zeros(1, 2, 3, 4, 4).byte())),
    ("adaptive: size of one number", "output_size", _adaptive(size=(2,))),
    ("adaptive grad of integers", "grad_y", _adaptive_back(grad=filled(2, 3, 4, 4).long())),
    ("adaptive grad 2-d", "grad_y", _adaptive_back(grad=filled(4, 4))),
    ("adaptive input_size 0", "input_size", _adaptive_back(input_size=(8, 0))),
    ("adaptive input_size -1", "input_size", _adaptive_back(input_size=(-1, 8))),
]


# Any input.


def pairs(numbers):
    return st.lists(numbers, min_size=2, max_size=2)


def channels(most):
    return st.integers(1, min(9, most)) | st.sampled_from([min(n, most) for n in (16, 17, 33)])


@st.composite
def pools(draw, odd=0, most=33):
    """(shape, kernel_size, stride, padding, dilation, ceil_mode) that torch accepts.

    `odd` percent of the numbers are any number instead. `most` bounds channels and spare pixels.
    """
    kernel = draw(pairs(st.integers(1, 5) | st.sampled_from([6, 7, 17] if most > 5 else [2])))
    stride = draw(pairs(st.integers(1, 5)))
    dilation = draw(st.just([1, 1]) | pairs(st.integers(1, 3)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    ceil_mode = draw(st.booleans())
    spatial = []
    for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True):
        least = (k - 1) * d + 1 - 2 * p - (s - 1 if ceil_mode else 0)
        spatial.append(draw(st.integers(max(1, least), max(1, least) + min(12, most))))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (3,)]))
    shape = (*batch, draw(channels(most)), *spatial)
    if not odd:
        return shape, kernel, stride, padding, dilation, ceil_mode

    def perhaps_odd(numbers, odd_ones):
        return [draw(odd_ones) if draw(st.integers(0, 99)) < odd else n for n in numbers]

    anything = st.sampled_from([-1, 0, *LARGE]) | st.integers(0, 50)
    arguments = [perhaps_odd(numbers, anything) for numbers in (kernel, stride, padding, dilation)]
    return tuple(perhaps_odd(shape, st.sampled_from([0, 1]))), *arguments, ceil_mode


@st.composite
def _max_pools(draw, most):
    shape, *arguments = draw(pools(most=most))
    return shape, tuple(arguments)


@st.composite
def _avg_pools(draw, most):
    shape, kernel_size, stride, padding, _, ceil_mode = draw(pools(most=most))
    # The window may dilate where this one does not: as long as it fits, the shape is right.
    divisor = draw(st.sampled_from([None, None, 1, 5, -3]))
    return shape, (kernel_size, stride, padding, ceil_mode, draw(st.booleans()), divisor)


@st.composite
def _adaptive_pools(draw, most):
    batch = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    size = st.integers(1, min(20, most))
    shape = (*batch, draw(channels(most)), draw(size), draw(size))
    return shape, (draw(pairs(size)),)


FUZZED = {
    op: {"max_": _max_pools, "avg_": _avg_pools, "adap": _adaptive_pools}[op[:4]] for op in SPECS
}
