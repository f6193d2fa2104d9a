"""Convolution: the layers of the shipped models, with fewer channels, and odd ones."""

import math

import torch

from .case import Case, Spec, pair, with_layout

HUGE = 2**62


def _conv(name, x, o, kernel, stride=1, padding=0, dilation=1, groups=1, act=0, extras="b", **kw):
    """`extras`: which of bias and residual there are."""
    weight = (o, x[-3] // groups, *pair(kernel))
    arguments = (weight, extras, pair(stride), pair(padding), pair(dilation), groups, act)
    return Case(name, x, arguments, **kw)


def _both(*args, **kwargs):
    case = _conv(*args, **kwargs)
    return case, with_layout(case, "channels_last")


RELU, RELU6 = 1, 2
MODELS = [
    *_both("alexnet-1", (1, 3, 47, 47), 16, 11, 4, 2, act=RELU),
    *_both("alexnet-2", (1, 16, 13, 13), 48, 5, 1, 2),
    *_both("vgg-3x3", (1, 35, 14, 14), 33, 3, 1, 1, act=RELU),
    *_both("resnet-stem", (1, 3, 56, 56), 16, 7, 2, 3, extras=""),
    *_both("resnet-3x3-down", (2, 32, 14, 14), 64, 3, 2, 1, extras=""),
    *_both("resnet-1x1-down", (1, 32, 14, 14), 64, 1, 2, extras=""),
    *_both("resnet-out", (2, 32, 7, 7), 64, 1, act=RELU, extras="br"),
    *_both("googlenet-5x5", (1, 16, 14, 14), 24, 5, 1, 2),
    *_both("mobilenet-dw", (1, 32, 14, 14), 32, 3, 1, 1, groups=32, act=RELU6),
    *_both("mobilenet-dw-down", (2, 35, 15, 15), 35, 3, 2, 1, groups=35, extras=""),
    *_both("mobilenet-5x5-dw", (1, 24, 14, 14), 24, 5, 2, 2, groups=24),
    *_both("vit-patches", (1, 3, 32, 32), 24, 16, 16),
]
ODD = [
    *_both("one-pixel", (1, 1, 1, 1), 1, 1),
    *_both("primes", (3, 5, 11, 13), 7, 3, 2),
    *_both("kernel-is-input", (2, 3, 7, 5), 4, (7, 5)),
    *_both("stride-over-kernel", (2, 3, 11, 13), 5, 2, 5),
    *_both("tall-kernel", (1, 4, 14, 9), 6, (5, 1), (2, 1), (2, 0)),
    *_both("padded-small", (2, 3, 2, 2), 4, 3, 1, 2, act=RELU, extras="br"),
    *_both("dilated", (2, 3, 17, 13), 6, 3, 2, 1, 2),
    *_both("dilated-down", (1, 4, 12, 9), 3, (3, 2), 1, 0, (3, 1)),
    *_both("grouped", (2, 12, 7, 9), 18, 3, 1, 1, groups=3, act=RELU),
    *_both("grouped-strided", (1, 8, 9, 9), 16, 3, 2, 1, groups=4, extras="br"),
    *_both("multiplier", (1, 6, 8, 8), 18, 3, 1, 1, groups=6),
    *_both("empty-batch", (0, 3, 8, 8), 4, 3, 1, 1),
    _conv("unbatched", (3, 9, 10), 5, 3, 2, 1, extras="br", act=RELU),
    _conv("row", (2, 8, 1, 30), 9, (1, 3), 1, (0, 1)),
    *(
        _conv(f"channels-{c}", (1, c, 4, 5), o, 3, 1, 1, layout="channels_last")
        for c, o in [(15, 33), (17, 31), (33, 65), (64, 16)]
    ),
]
CASES = (*MODELS, *ODD)


def _terms(shape, weight, *rest):
    return math.prod(weight[1:]) + 2


def _operands(values, x, weight, extras, *rest):
    o = weight[0]
    y = _output(x, weight, *rest)
    return (
        values.weight(weight),
        values((o,)) if "b" in extras else None,
        (values(y) if "r" in extras else None),
    )


def _output(x, weight, stride, padding, dilation, groups, act):
    meta = torch.empty(x.shape, device="meta"), torch.empty(weight, device="meta")
    return torch.nn.functional.conv2d(*meta, None, stride, padding, dilation, groups).shape


def _forward(values, x, weight, extras, *rest):
    return x, *_operands(values, x, weight, extras, *rest), *rest


def _gate(values, shape, act):
    """What a fused activation might have returned."""
    return torch.relu(values(shape)).clamp(max=6) if act else None


def _backward_input(values, x, weight, extras, *rest):
    y = _output(x, weight, *rest)
    channels_last = torch._prims_common.suggest_memory_format(x) is torch.channels_last
    last = channels_last and x.dim() == 4
    return (
        values(y),
        _gate(values, y, rest[-1]),
        values.weight(weight),
        list(x.shape[-2:]),
        last,
        *rest,
    )


def _backward_weight(values, x, weight, extras, *rest):
    y = _output(x, weight, *rest)
    return values(y), _gate(values, y, rest[-1]), x, list(weight[2:]), False, *rest


def _pixels(shape, weight, extras, *rest):
    y = _output(torch.empty(shape, device="meta"), weight, *rest)
    return max(1, math.prod(y) // weight[0])


def _transposed(name, x, o, kernel, stride=1, padding=0, more=0, groups=1, dilation=1, **kw):
    weight = (x[-3], o // groups, *pair(kernel))
    arguments = (weight, pair(stride), pair(padding), pair(more), groups, pair(dilation))
    case = Case(name, x, arguments, **kw)
    return (case,) if len(x) == 3 else (case, with_layout(case, "channels_last"))


TRANSPOSED = (
    *_transposed("decoder", (1, 16, 7, 7), 24, 4, 2, 1),
    *_transposed("primes", (2, 5, 5, 7), 3, 3, 2, 1, 1),
    *_transposed("grouped", (2, 6, 4, 5), 8, 3, 1, 1, groups=2),
    *_transposed("dilated", (1, 3, 5, 4), 4, 3, 2, 2, 1, dilation=2),
    *_transposed("stride-over-kernel", (1, 3, 4, 5), 4, 2, 3),
    *_transposed("one-pixel", (1, 1, 1, 1), 1, 1),
    *_transposed("empty-batch", (0, 3, 4, 4), 2, 3),
    *_transposed("unbatched", (3, 5, 6), 4, 3, 2),
)


def _transpose(values, x, weight, stride, padding, more, groups, dilation):
    bias = values((weight[1] * groups,))
    return x, values.weight(weight), bias, stride, padding, more, groups, dilation


def _transposed_terms(shape, weight, *rest):
    return weight[0] * math.prod(weight[2:]) + 1


SPECS = {
    "conv2d": Spec(CASES, _forward, _terms, reordered=True),
    "conv2d_inference": Spec(CASES, _forward, _terms, reordered=True),
    "conv2d_backward_input": Spec(
        CASES, _backward_input, lambda s, w, *r: w[0] * math.prod(w[2:]), reordered=True
    ),
    "conv2d_backward_weight": Spec(CASES, _backward_weight, _pixels, reordered=True, slack=3),
    "conv_transpose2d": Spec(TRANSPOSED, _transpose, _transposed_terms, reordered=True),
    "conv_transpose2d_inference": Spec(TRANSPOSED, _transpose, _transposed_terms, reordered=True),
}
