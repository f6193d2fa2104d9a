"""Convolution: the layers of the shipped models, with fewer channels, and odd ones."""

import math

import hypothesis.strategies as st
import torch

from torchext.ops._packed import pack
from torchext.ops._winograd import pack_winograd

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


RELU, RELU6, SILU = 1, 2, 5
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
    *_both("grouped-strided", (1, 8, 9, 9), 16, 3, 2, 1, groups=4, extras="br", act=RELU6),
    *_both("groups-of-4", (2, 20, 9, 11), 20, 3, 1, 1, groups=5, extras="br", act=RELU),
    *_both("groups-of-8", (1, 24, 13, 12), 24, 3, 2, 1, groups=3),
    *_both("groups-of-8-odd", (2, 40, 6, 11), 40, 3, 1, 1, groups=5, act=RELU),
    *_both("groups-dilated", (1, 12, 11, 8), 12, (5, 3), (1, 2), (2, 0), (2, 1), groups=3),
    *_both("multiplier", (1, 6, 8, 8), 18, 3, 1, 1, groups=6, act=RELU),
    *_both("strips-dw", (2, 9, 35, 6), 9, 3, 1, 1, groups=9),
    *_both("strips-dw-down", (1, 9, 70, 5), 9, 3, 2, 1, groups=9),
    *_both("strips-dw-unpadded", (1, 9, 37, 4), 9, 3, groups=9),
    *_both("dilated-dw", (1, 6, 12, 13), 6, 3, 2, 2, 2, groups=6),
    *_both("many-pixels", (2, 2, 14, 13), 3, 3, 1, 1),
    *_both("many-pixels-dw", (2, 2, 14, 13), 2, 3, 1, 1, groups=2, act=RELU6),
    *_both("chunks-of-pixels", (2, 5, 37, 29), 3, 3, 1, 1),
    *_both("chunks-of-pixels-widened", (2, 3, 37, 29), 16, 1, act=RELU),
    *_both("empty-batch", (0, 3, 8, 8), 4, 3, 1, 1),
    _conv("unbatched", (3, 9, 10), 5, 3, 2, 1, extras="br", act=RELU),
    _conv("row", (2, 8, 1, 30), 9, (1, 3), 1, (0, 1)),
    *(
        _conv(f"channels-{c}", (1, c, 4, 5), o, 3, 1, 1, layout="channels_last")
        for c, o in [(15, 33), (17, 31), (33, 65), (64, 16)]
    ),
]
CASES = (*MODELS, *ODD)


def _never(case):
    return False


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


def _packed(values, x, weight, *rest):
    x, w, bias, residual, *rest = _forward(values, x, weight, *rest)
    return x, pack(w, rest[-2]), list(weight), bias, residual, *rest


def _suits_winograd(case):
    weight, _, stride, _, dilation, groups, _ = case.arguments
    ones = (tuple(stride), tuple(dilation), groups) == ((1, 1), (1, 1), 1)
    return tuple(weight[2:]) == (3, 3) and ones and len(case.shape) == 4


WINOGRAD = (
    *filter(_suits_winograd, CASES),
    _conv("one-output", (1, 3, 3, 3), 2, 3),
    _conv("primes", (2, 19, 11, 17), 67, 3, 1, (2, 0), extras="br", act=RELU),
    _conv("many-panels", (1, 40, 10, 6), 130, 3, 1, 1, extras="b", layout="channels_last"),
    _conv("many-blocks", (3, 70, 23, 30), 33, 3, 1, 1, extras="r", layout="channels_last"),
)


def _winograd(values, x, weight, *rest):
    x, w, bias, residual, _, padding, _, _, act = _forward(values, x, weight, *rest)
    return x, pack_winograd(w), weight[0], bias, residual, padding, act


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
    gate = _gate(values, y, rest[-1])
    return values(y), gate, x, list(weight[2:]), False, *rest, "b" in extras


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
    *_transposed("padded-small", (2, 3, 3, 2), 2, 3, 2, 1, 1),
    *_transposed("primes", (2, 5, 5, 7), 3, 3, 2, 1, 1),
    *_transposed("grouped", (2, 6, 4, 5), 8, 3, 1, 1, groups=2),
    *_transposed("dilated", (1, 3, 5, 4), 4, 3, 2, 2, 1, dilation=2),
    *_transposed("stride-over-kernel", (1, 3, 4, 5), 4, 2, 3),
    *_transposed("padded-over-stride", (2, 3, 3, 4), 2, 3, (1, 2), 1, (2, 1), dilation=(3, 2)),
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
    "conv2d_packed_inference": Spec(CASES, _packed, _terms, reordered=True),
    # Its points are no integers, and 10 times torch's error is what precision="fast" admits.
    "conv2d_winograd_inference": Spec(
        WINOGRAD,
        _winograd,
        lambda *args: 100 * _terms(*args),
        exact=_never,
        impulses=_never,
        mixes=True,
        reordered=True,
        slack=10,
    ),
    "conv2d_backward_input": Spec(
        CASES, _backward_input, lambda s, w, *r: w[0] * math.prod(w[2:]), reordered=True
    ),
    "conv2d_backward_weight": Spec(CASES, _backward_weight, _pixels, reordered=True, slack=3),
    "conv_transpose2d": Spec(TRANSPOSED, _transpose, _transposed_terms, reordered=True),
    "conv_transpose2d_inference": Spec(TRANSPOSED, _transpose, _transposed_terms, reordered=True),
}


# Bad input.


def _ones(shape, **kw):
    return None if shape is None else torch.ones(shape, **kw)


_COMMON = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}


def _rest(act=0, **common):
    return *(_COMMON | common).values(), act


def _conv2d(x=(2, 4, 8, 8), weight=(6, 4, 3, 3), bias=(6,), residual=None, kind=None, **rest):
    """`kind`: what is odd about the weight."""
    tensors = _ones(x), _ones(weight, **kind or {}), _ones(bias), _ones(residual)
    return "conv2d", (*tensors, *_rest(**rest))


def _conv2d_packed(x=(2, 4, 8, 8), weight=(6, 4, 3, 3), bias=(6,), residual=None, **rest):
    panels = _ones(rest.pop("panels", (37, 32)), **rest.pop("kind", {}))
    tensors = panels, list(weight), _ones(bias), _ones(residual)
    return "conv2d_packed_inference", (_ones(x), *tensors, *_rest(**rest))


def _winograd_call(x=(2, 4, 8, 8), bias=(6,), residual=None, **rest):
    panels = _ones(rest.pop("panels", (145, 32)), **rest.pop("kind", {}))
    padding, out, act = rest.get("padding", (0, 0)), rest.get("out", 6), rest.get("act", 0)
    tensors = panels, out, _ones(bias), _ones(residual)
    return "conv2d_winograd_inference", (_ones(x), *tensors, padding, act)


def _to_input(grad=(2, 6, 6, 6), y=None, weight=(6, 4, 3, 3), size=(8, 8), kind=None, **rest):
    tensors = _ones(grad), _ones(y), _ones(weight, **kind or {})
    return "conv2d_backward_input", (*tensors, size, False, *_rest(**rest))


def _to_weight(grad=(2, 6, 6, 6), y=None, x=(2, 4, 8, 8), kernel=(3, 3), kind=None, **rest):
    tensors = _ones(grad), _ones(y), _ones(x, **kind or {})
    return "conv2d_backward_weight", (*tensors, kernel, False, *_rest(**rest), True)


def _transpose2d(x=(2, 6, 5, 5), weight=(6, 4, 3, 3), bias=(4,), more=(0, 0), kind=None, **rest):
    stride, padding, dilation, groups, _ = _rest(**rest)
    tensors = _ones(x), _ones(weight, **kind or {}), _ones(bias)
    return "conv_transpose2d", (*tensors, stride, padding, more, groups, dilation)


# (what is wrong, the argument that the message must name, the call)
REFUSED = [
    *(
        (f"{call.__name__[1:]}: {what}", argument, call(**wrong))
        for call in (_conv2d, _conv2d_packed, _to_input, _to_weight, _transpose2d)
        for what, argument, wrong in [
            ("stride 0", "stride", {"stride": (0, 1)}),
            ("stride -1", "stride", {"stride": (1, -1)}),
            ("three strides", "stride", {"stride": (1, 1, 1)}),
            ("padding -1", "padding", {"padding": (-1, 0)}),
            ("dilation 0", "dilation", {"dilation": (1, 0)}),
            ("dilation 2^62 of 3 taps", "dilation", {"dilation": (HUGE, 1)}),
            ("groups 0", "groups", {"groups": 0}),
            ("groups -1", "groups", {"groups": -1}),
        ]
    ),
    *(
        (f"{call.__name__[1:]}: {what}", argument, call(**wrong))
        for call in (_conv2d, _to_input, _transpose2d)
        for what, argument, wrong in [
            ("kernel of 0", "weight", {"weight": (6, 4, 0, 3)}),
            ("no input channels", "weight", {"weight": (6, 0, 3, 3)}),
            ("no output channels", "weight", {"weight": (0, 4, 3, 3)}),
            ("3-d weight", "weight", {"weight": (6, 4, 3)}),
            ("groups that divide no channels", "weight", {"groups": 4}),
            ("weight of another dtype", "weight", {"kind": {"dtype": torch.float64}}),
            ("weight without data", "weight", {"kind": {"device": "meta"}}),
        ]
    ),
    ("packed: few panels", "panels", _conv2d_packed(panels=(36, 32))),
    ("packed: narrow panels", "panels", _conv2d_packed(panels=(37, 16))),
    ("packed: flat panels", "panels", _conv2d_packed(panels=(37 * 32,))),
    ("packed: panels in double", "panels", _conv2d_packed(kind={"dtype": torch.float64})),
    ("packed: panels without data", "panels", _conv2d_packed(kind={"device": "meta"})),
    ("packed: 3-d weight_size", "weight_size", _conv2d_packed(weight=(6, 4, 3))),
    ("packed: no kernel", "weight", _conv2d_packed(weight=(6, 4, 0, 3))),
    ("packed: huge weight", "panels", _conv2d_packed(weight=(HUGE, 4, 3, 3), bias=None)),
    ("packed: other channels", "input", _conv2d_packed(x=(2, 5, 8, 8))),
    ("packed: bias of another size", "bias", _conv2d_packed(bias=(4,))),
    ("packed: residual of another shape", "residual", _conv2d_packed(residual=(2, 6, 1, 1))),
    ("packed: activation 99", "activation", _conv2d_packed(act=99)),
    ("winograd: unbatched", "input", _winograd_call(x=(4, 8, 8))),
    ("winograd: few panels", "panels", _winograd_call(panels=(37, 32))),
    ("winograd: panels in double", "panels", _winograd_call(kind={"dtype": torch.float64})),
    ("winograd: panels without data", "panels", _winograd_call(kind={"device": "meta"})),
    ("winograd: other channels", "panels", _winograd_call(x=(2, 5, 8, 8))),
    ("winograd: no outputs", "weight", _winograd_call(out=0)),
    ("winograd: huge outputs", "panels", _winograd_call(out=HUGE, bias=None)),
    ("winograd: padding -1", "padding", _winograd_call(padding=(-1, 0))),
    ("winograd: kernel over the input", "weight", _winograd_call(x=(2, 4, 2, 8))),
    ("winograd: bias of another size", "bias", _winograd_call(bias=(4,))),
    ("winograd: residual of another shape", "residual", _winograd_call(residual=(2, 6, 1, 1))),
    ("winograd: activation 99", "activation", _winograd_call(act=99)),
    ("groups of other channels", "input", _conv2d(groups=2)),
    ("other channels", "input", _conv2d(x=(2, 5, 8, 8))),
    ("no channels", "input", _conv2d(x=(2, 0, 8, 8))),
    ("kernel over the input", "weight", _conv2d(x=(2, 4, 2, 8))),
    ("dilation over the input", "weight", _conv2d(dilation=(4, 1))),
    ("dilation 2^61 of 3 taps", "weight", _conv2d(dilation=(2**61, 1))),
    ("padding 2^62", "padding", _conv2d(padding=(HUGE, 0))),
    ("H = 0", "weight", _conv2d(x=(2, 4, 0, 8))),
    ("2-d", "input", _conv2d(x=(8, 8))),
    ("5-d", "input", _conv2d(x=(1, 2, 4, 8, 8))),
    ("bias of another size", "bias", _conv2d(bias=(4,))),
    ("2-d bias", "bias", _conv2d(bias=(1, 6))),
    ("residual of another shape", "residual", _conv2d(residual=(2, 6, 1, 1))),
    ("residual of another rank", "residual", _conv2d(residual=(6, 6, 6))),
    ("activation -1", "activation", _conv2d(act=-1)),
    ("activation 99", "activation", _conv2d(act=99)),
    ("to input: grad of another shape", "grad_y", _to_input(grad=(2, 6, 6, 5))),
    ("to input: grad of other channels", "grad_y", _to_input(grad=(2, 4, 6, 6))),
    ("to input: 2-d grad", "grad_y", _to_input(grad=(6, 6))),
    ("to input: 5-d grad", "grad_y", _to_input(grad=(1, 2, 6, 6, 6))),
    ("to input: y of another shape", "y", _to_input(y=(2, 6, 6, 1), act=RELU)),
    ("to input: y of silu", "activation", _to_input(y=(2, 6, 6, 6), act=SILU)),
    ("to input: input_size 0", "weight", _to_input(size=(0, 8))),
    ("to input: input_size -1", "input_size", _to_input(size=(8, -1))),
    ("to input: input_size 2^62", "grad_y", _to_input(size=(HUGE, 8))),
    ("to input: input_size of another output", "grad_y", _to_input(size=(8, 9))),
    ("to input: three input sizes", "input_size", _to_input(size=(8, 8, 8))),
    ("to weight: grad of another shape", "grad_y", _to_weight(grad=(2, 6, 6, 5))),
    ("to weight: grad of another batch", "grad_y", _to_weight(grad=(3, 6, 6, 6))),
    ("to weight: grad of another rank", "x", _to_weight(grad=(6, 6, 6))),
    ("to weight: grad without channels", "weight", _to_weight(grad=(2, 0, 6, 6))),
    ("to weight: 2-d grad", "grad_y", _to_weight(grad=(6, 6))),
    ("to weight: y of another shape", "y", _to_weight(y=(2, 6, 6, 1), act=RELU)),
    ("to weight: y of silu", "activation", _to_weight(y=(2, 6, 6, 6), act=SILU)),
    ("to weight: x without channels", "weight", _to_weight(x=(2, 0, 8, 8))),
    ("to weight: x of another dtype", "x", _to_weight(kind={"dtype": torch.float64})),
    ("to weight: x without data", "x", _to_weight(kind={"device": "meta"})),
    ("to weight: kernel 0", "kernel_size", _to_weight(kernel=(0, 3))),
    ("to weight: kernel -1", "kernel_size", _to_weight(kernel=(3, -1))),
    ("to weight: kernel 2^62", "weight", _to_weight(kernel=(HUGE, 3))),
    ("to weight: another kernel", "grad_y", _to_weight(kernel=(2, 3))),
    ("to weight: groups that divide no x", "groups", _to_weight(groups=3)),
    ("to weight: groups that divide no grad", "weight", _to_weight(groups=4)),
    ("transposed: other channels", "input", _transpose2d(x=(2, 5, 8, 8))),
    ("transposed: no channels", "input", _transpose2d(x=(2, 0, 8, 8))),
    ("transposed: W = 0", "input", _transpose2d(x=(2, 6, 5, 0))),
    ("transposed: 2-d", "input", _transpose2d(x=(8, 8))),
    ("transposed: 5-d", "input", _transpose2d(x=(1, 2, 6, 8, 8))),
    ("transposed: bias of another size", "bias", _transpose2d(bias=(6,))),
    ("transposed: output_padding 1", "output_padding", _transpose2d(more=(1, 0))),
    ("transposed: output_padding -1", "output_padding", _transpose2d(more=(0, -1))),
    ("transposed: nothing left", "padding", _transpose2d(padding=(4, 0))),
    ("transposed: padding 2^62", "padding", _transpose2d(padding=(HUGE, 0))),
    ("transposed: stride 2^62", "stride", _transpose2d(stride=(HUGE, 1))),
]


# Any input.


def _pairs(most):
    return st.lists(st.integers(1, most), min_size=2, max_size=2)


@st.composite
def _layers(draw, most):
    """(channels of x in a group, of y in a group, groups, kernel, stride, padding, dilation)"""
    channels = st.integers(1, min(9, most)) | st.sampled_from([min(n, most) for n in (16, 17, 33)])
    groups = draw(st.sampled_from([1, 1, min(3, most), min(18, most)]))
    c, o = (draw(st.just(1) | channels if groups > 3 else channels) for _ in range(2))
    kernel = draw(_pairs(3) | _pairs(min(most + 1, 7)))
    stride, dilation = draw(_pairs(4)), draw(st.just([1, 1]) | _pairs(3))
    padding = [draw(st.integers(0, 3)) for _ in range(2)]
    return c, o, groups, kernel, stride, padding, dilation


_batches = st.sampled_from([(), (0,), (1,), (2,), (3,)])


@st.composite
def _convs(draw, most):
    c, o, groups, kernel, stride, padding, dilation = draw(_layers(most))
    sizes = []
    for k, p, d in zip(kernel, padding, dilation, strict=True):
        least = max(1, (k - 1) * d + 1 - 2 * p)
        sizes.append(draw(st.integers(least, least + min(9, most + 2))))
    shape = (*draw(_batches), c * groups, *sizes)
    extras, act = draw(st.sampled_from(["", "b", "r", "br"])), draw(st.sampled_from([0, RELU]))
    weight = (o * groups, c, *kernel)
    return shape, (weight, extras, stride, padding, dilation, groups, act)


@st.composite
def _transposes(draw, most):
    c, o, groups, kernel, stride, padding, dilation = draw(_layers(most))
    sizes, more = [], []
    for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True):
        more.append(draw(st.integers(0, max(s, d) - 1)))
        least = max(1, -(((k - 1) * d + more[-1] - 2 * p) // s) + 1)
        sizes.append(draw(st.integers(least, least + min(6, most))))
    shape = (*draw(_batches), c * groups, *sizes)
    weight = (c * groups, o, *kernel)
    return shape, (weight, stride, padding, more, groups, dilation)


@st.composite
def _winograds(draw, most):
    c, o, *_ = draw(_layers(most))
    padding = [draw(st.integers(0, 3)) for _ in range(2)]
    sizes = [draw(st.integers(max(1, 3 - 2 * p), 3 + min(9, most + 2))) for p in padding]
    shape = (draw(st.integers(0, 3)), c, *sizes)
    extras, act = draw(st.sampled_from(["", "b", "r", "br"])), draw(st.sampled_from([0, RELU]))
    return shape, ((o, c, 3, 3), extras, [1, 1], padding, [1, 1], 1, act)


def _strategy(op):
    if "winograd" in op:
        return _winograds
    return _transposes if op.startswith("conv_transpose") else _convs


FUZZED = {op: _strategy(op) for op in SPECS}
