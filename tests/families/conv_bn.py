"""Convolution with batch norm and activation: blocks of the shipped models, cut, and odd ones."""

import math

import hypothesis.strategies as st
import torch

from torchext.ops import OPS
from torchext.ops._activation import KINDS
from torchext.ops._dense import compute_dtype
from torchext.ops._packed import pack

from .case import Case, Spec, pair, with_layout

# Case.arguments: (weight, extras, training, stride, padding, dilation, groups, activation); extras:
# which of c, the convolution's bias, g, gamma, b, beta, s, running statistics, r, residual, there
# are.


def _block(name, x, o, kernel, stride=1, padding=0, dilation=1, groups=1, **rest):
    act, extras = rest.pop("act", "relu"), rest.pop("extras", "gbs")
    training, layout = rest.pop("training", True), rest.pop("layout", "contiguous")
    assert not rest
    weight = (o, x[1] // groups, *pair(kernel))
    geometry = pair(stride), pair(padding), pair(dilation), groups
    return Case(name, x, (weight, extras, training, *geometry, KINDS[act]), layout)


def _both(*args, **kwargs):
    case = _block(*args, **kwargs)
    return case, with_layout(case, "channels_last")


CASES = (
    *_both("primes", (3, 5, 11, 13), 7, 3, 2, act="silu", extras="cgbsr"),
    *_both("resnet-3x3", (2, 16, 14, 14), 33, 3, 1, 1),
    *_both("resnet-down", (2, 16, 14, 14), 32, 1, 2, act="none"),
    *_both("resnet-out", (2, 32, 7, 7), 64, 1, extras="gbsr"),
    *_both("mobilenet-dw", (2, 35, 14, 14), 35, 3, 1, 1, groups=35, act="relu6"),
    _block("efficientnet-dw", (2, 24, 14, 14), 24, 5, 2, 2, groups=24, act="silu", extras="gbs"),
    _block("mobilenet-v3", (2, 9, 14, 14), 16, 1, act="hardswish", extras="cs"),
    _block("grouped", (2, 12, 7, 9), 18, 3, 1, 1, groups=3, act="leaky_relu", extras="gr"),
    _block("a-few-images-at-once", (3, 4, 40, 41), 90, 1, layout="channels_last"),
    *_both("padded-small", (2, 3, 4, 3), 4, 2, 1, 1, act="gelu", extras="cbr"),
    _block("small-inference", (2, 3, 4, 3), 4, 3, 1, 1, training=False, extras="cgbsr"),
    _block("bare", (4, 3, 5, 6), 5, 3, 1, 1, act="tanh", extras=""),
    _block("empty-batch", (0, 3, 8, 8), 4, 3, 1, 1, training=False),
)


def _inferred(case):
    """The case by running statistics."""
    weight, extras, _, *rest = case.arguments
    extras = extras if "s" in extras else extras + "s"
    return Case(case.name, case.shape, (weight, extras, False, *rest), case.layout)


INFERRED = (
    *map(_inferred, CASES),
    *_both("training", (2, 8, 7, 6), 9, 3, 1, 1, extras="gbsr"),
)


def _finite(x):
    """Infinity times nearly nothing: its sign, or whether it is NaN, is a rounding error."""
    return x.nan_to_num(1, 2, -2)


def _norm(values, x, channels, extras, flags="gbss"):
    """gamma, beta and, as they are kept in mixed precision, running_mean and running_var"""
    gamma, beta = (_finite(values((channels,))) for _ in range(2))
    mean, var = (_finite(values((channels,))).to(compute_dtype(x)) for _ in range(2))
    vectors = zip(flags, (gamma, beta, mean, var.abs() + 0.5), strict=True)
    return [vector if flag in extras else None for flag, vector in vectors]


def _output(x, weight, *geometry):
    meta = torch.empty(x.shape, device="meta"), torch.empty(weight, device="meta")
    return torch.nn.functional.conv2d(*meta, None, *geometry).shape


def _forward(values, x, weight, extras, training, *rest):
    *geometry, act = rest
    bias = _finite(values(weight[:1])) if "c" in extras else None
    residual = values(_output(x, weight, *geometry)) if "r" in extras else None
    norm = _norm(values, x, weight[0], extras)
    arguments = (values.weight(weight), bias, *norm, residual)
    return x, *arguments, training, 0.1, 1e-5, *geometry, act


def _backward(values, x, *rest):
    args = _forward(values, x, *rest)
    gamma, beta, *_, residual, training, _, eps = args[3:11]
    y, z, mean, rstd, *_ = OPS["conv_bn_act"].decomposition(*args)
    grad = _finite(values(y.shape))
    statistics = (mean, rstd, gamma, beta)
    return grad, z, residual, *statistics, training, eps, args[-1], residual is not None


def _terms(shape, weight, extras, training, *geometry_act):
    pixels = _output(torch.empty(shape, device="meta"), weight, *geometry_act[:-1])
    return math.prod(weight[1:]) + max(1, math.prod(pixels) // weight[0])


def _never(case):
    return False


def _spec(cases, arguments, terms=_terms, **rest):
    never = {"exact": _never, "impulses": _never, "repeats": False, "reordered": True}
    return Spec(cases, arguments, terms, **never, **rest)


# Case.arguments of depthwise_separable: the kernel's sizes, output channels, extras (g and b of the
# depthwise norm, G and B of the pointwise one), stride, padding, dilation, activations.


def _separable(name, x, o, kernel=3, stride=1, padding=1, dilation=1, **rest):
    acts, extras = rest.pop("acts", ("relu", "relu")), rest.pop("extras", "gbGB")
    layout = rest.pop("layout", "contiguous")
    assert not rest
    geometry = pair(stride), pair(padding), pair(dilation)
    return Case(name, x, (pair(kernel), o, extras, *geometry, *(KINDS[a] for a in acts)), layout)


def _both_separable(*args, **kwargs):
    case = _separable(*args, **kwargs)
    return case, with_layout(case, "channels_last")


SEPARABLE = (
    *_both_separable("mobilenet-v1", (2, 32, 14, 14), 64),
    *_both_separable("mobilenet-v1-down", (1, 35, 15, 15), 70, stride=2),
    *_both_separable("mobilenet-v2", (2, 24, 7, 7), 24, acts=("relu6", "none"), extras="gbGBr"),
    _separable("mobilenet-v3", (1, 16, 14, 14), 33, 5, 2, 2, acts=("hardswish", "none")),
    *_both_separable("primes", (3, 5, 11, 13), 7, 3, 2, acts=("silu", "gelu"), extras="gBr"),
    *_both_separable("padded-small", (2, 3, 4, 3), 4, 2, acts=("relu", "tanh"), extras="bGr"),
    _separable("many-panels", (1, 16, 7, 7), 300, layout="channels_last"),
    _separable("wide", (1, 3, 3, 500), 33, layout="channels_last"),
    _separable("dilated", (1, 6, 9, 11), 20, 3, 1, 2, 2, extras=""),
    _separable("empty-batch", (0, 3, 8, 8), 4),
)


def _separable_arguments(values, x, kernel, o, extras, *rest):
    *geometry, act, pointwise_act = rest
    c = x.shape[1]
    norm = _norm(values, x, c, extras + "s")
    pointwise_norm = _norm(values, x, o, extras + "s", "GBss")
    weight = values.weight((c, 1, *kernel))
    pointwise = values.weight((o, c, 1, 1))
    y = _output(x, (c, 1, *kernel), *geometry, c)
    residual = values((y[0], o, *y[2:])) if "r" in extras else None
    return (
        *(x, weight, *norm, 1e-5, pointwise, *pointwise_norm, 1e-3, residual),
        *(*geometry, act, pointwise_act),
    )


def _packed_arguments(values, x, kernel, o, *rest):
    args = _separable_arguments(values, x, kernel, o, *rest)
    return *args[:7], pack(args[7]), o, *args[8:]


def _separable_terms(shape, kernel, *rest):
    return math.prod(kernel) + shape[1] + 16  # the norms' own: where mean and sum cancel


SPECS = {
    "conv_bn_act": _spec(CASES, _forward),
    "conv_bn_act_inference": _spec(INFERRED, _forward),
    "conv_bn_act_backward": _spec(CASES, _backward, slack=3),
    "depthwise_separable_inference": _spec(SEPARABLE, _separable_arguments, _separable_terms),
    "depthwise_separable_packed_inference": _spec(SEPARABLE, _packed_arguments, _separable_terms),
}


# Bad input.


def _ones(shape, **kw):
    return None if shape is None else torch.ones(shape, **kw)


_GEOMETRY = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}


def _conv_bn(x=(2, 4, 8, 8), weight=(6, 4, 3, 3), bias=(6,), residual=None, kind=None, **rest):
    """`kind`: what is odd about the weight."""
    norm = {"gamma": (6,), "beta": (6,), "running_mean": (6,), "running_var": (6,)}
    norm = {name: _ones(rest.pop(name, size)) for name, size in norm.items()}
    training, groups, act = rest.pop("training", True), rest.pop("groups", 1), rest.pop("act", 0)
    tensors = _ones(x), _ones(weight, **kind or {}), _ones(bias), *norm.values(), _ones(residual)
    geometry = (_GEOMETRY | rest).values()
    return "conv_bn_act", (*tensors, training, 0.1, 1e-5, *geometry, groups, act)


def _conv_bn_back(grad=(2, 6, 3, 3), z=(2, 6, 3, 3), residual=None, act=0, kind=None, **rest):
    vectors = {"mean": (6,), "rstd": (6,), "gamma": (6,), "beta": (6,)}
    vectors = [_ones(rest.pop(name, size)) for name, size in vectors.items()]
    assert not rest
    tensors = _ones(grad, **kind or {}), _ones(z), _ones(residual), *vectors
    return "conv_bn_act_backward", (*tensors, True, 1e-5, act, False)


def _separated(x=(2, 4, 8, 8), weight=(4, 1, 3, 3), pointwise=(6, 4, 1, 1), residual=None, **rest):
    sizes = dict.fromkeys(("gamma", "beta", "mean", "var"), (4,))
    sizes |= {f"pointwise_{name}": (6,) for name in sizes}
    gamma, beta, mean, var, *norm = (_ones(rest.pop(name, size)) for name, size in sizes.items())
    acts = rest.pop("act", 0), rest.pop("pointwise_act", 0)
    tensors = _ones(x), _ones(weight), gamma, beta, mean, var, 1e-5, _ones(pointwise), *norm
    geometry = (_GEOMETRY | rest).values()
    op = "depthwise_separable_inference"
    return op, (*tensors, 1e-5, _ones(residual), *geometry, *acts)


def _packed(panels=(5, 32), out_channels=6, **rest):
    _, args = _separated(**rest)
    args = (*args[:7], _ones(panels), out_channels, *args[8:])
    return "depthwise_separable_packed_inference", args


# (what is wrong, the argument that the message must name, the call)
REFUSED = [
    *(
        (f"{call.__name__[1:]}: {what}", argument, call(**wrong))
        for call in (_conv_bn, _separated, _packed)
        for what, argument, wrong in [
            ("stride 0", "stride", {"stride": (0, 1)}),
            ("padding -1", "padding", {"padding": (-1, 0)}),
            ("dilation 2^62", "dilation", {"dilation": (2**62, 1)}),
            ("padding 2^62", "padding", {"padding": (2**62, 1)}),
            ("no channels", "input", {"x": (2, 0, 8, 8)}),
            ("other channels", "input", {"x": (2, 5, 8, 8)}),
            ("3-d input", "input", {"x": (4, 8, 8)}),
            ("5-d input", "input", {"x": (1, 2, 4, 8, 8)}),
            ("3-d weight", "weight", {"weight": (4, 1, 3)}),
            ("no kernel", "weight", {"weight": (4, 1, 0, 3)}),
            ("kernel over the input", "weight", {"x": (2, 4, 2, 8)}),
            ("short gamma", "gamma", {"gamma": (1,)}),
            ("long beta", "beta", {"beta": (7,)}),
            ("residual of another shape", "residual", {"residual": (2, 6, 1, 1)}),
            ("3-d residual", "residual", {"residual": (6, 6, 6)}),
            ("activation -1", "activation", {"act": -1}),
            ("activation 99", "activation", {"act": 99}),
        ]
    ),
    ("conv_bn: groups 0", "groups", _conv_bn(groups=0)),
    ("conv_bn: groups that divide nothing", "weight", _conv_bn(groups=4)),
    ("conv_bn: weight of another dtype", "weight", _conv_bn(kind={"dtype": torch.float64})),
    ("conv_bn: weight without data", "weight", _conv_bn(kind={"device": "meta"})),
    ("conv_bn: bias of another size", "bias", _conv_bn(bias=(4,))),
    ("conv_bn: short running_mean", "running_mean", _conv_bn(running_mean=(5,))),
    ("conv_bn: long running_var", "running_var", _conv_bn(running_var=(7,))),
    ("conv_bn: no running_var", "running_var", _conv_bn(running_var=None)),
    (
        "conv_bn: inference of none",
        "running_mean",
        _conv_bn(running_mean=None, running_var=None, training=False),
    ),
    ("conv_bn back: grad of another shape", "grad_y", _conv_bn_back(grad=(2, 6, 3, 1))),
    (
        "conv_bn back: grad of another dtype",
        "grad_y",
        _conv_bn_back(kind={"dtype": torch.float64}),
    ),
    ("conv_bn back: 3-d z", "z", _conv_bn_back(grad=(6, 3, 3), z=(6, 3, 3))),
    ("conv_bn back: no pixels", "z", _conv_bn_back(grad=(2, 6, 0, 3), z=(2, 6, 0, 3))),
    ("conv_bn back: residual of another shape", "residual", _conv_bn_back(residual=(2, 6, 3, 1))),
    ("conv_bn back: few means", "mean", _conv_bn_back(mean=(5,))),
    ("conv_bn back: many rstd", "rstd", _conv_bn_back(rstd=(7,))),
    ("conv_bn back: short gamma", "gamma", _conv_bn_back(gamma=(5,))),
    ("conv_bn back: short beta", "beta", _conv_bn_back(beta=(5,))),
    ("conv_bn back: activation 99", "activation", _conv_bn_back(act=99)),
    ("separated: multiplier 2", "input", _separated(weight=(8, 1, 3, 3))),
    ("separated: two channels of a filter", "input", _separated(weight=(4, 2, 3, 3))),
    ("separated: 3-d pointwise", "pointwise_weight", _separated(pointwise=(6, 4, 1))),
    ("separated: 3x3 pointwise", "pointwise_weight", _separated(pointwise=(6, 4, 3, 3))),
    (
        "separated: pointwise of other channels",
        "pointwise_weight",
        _separated(pointwise=(6, 5, 1, 1)),
    ),
    ("separated: pointwise of no outputs", "pointwise_weight", _separated(pointwise=(0, 4, 1, 1))),
    ("packed: few panels", "panels", _packed(panels=(4, 32))),
    ("packed: narrow panels", "panels", _packed(panels=(5, 16))),
    ("packed: no outputs", "out_channels", _packed(out_channels=0)),
    ("separated: short mean", "mean", _separated(mean=(3,))),
    ("separated: long var", "var", _separated(var=(5,))),
    *(
        (
            f"separated: pointwise {name}",
            f"pointwise_{name}",
            _separated(**{f"pointwise_{name}": (4,)}),
        )
        for name in ("gamma", "beta", "mean", "var")
    ),
    ("separated: pointwise activation", "pointwise_activation", _separated(pointwise_act=13)),
]


# Any input.


@st.composite
def _shapes(draw, most, least_taps=1):
    """(batch, rows and columns of the image, kernel, stride, padding, dilation): several outputs,
    so that their statistics are no rounding errors"""
    kernel = [draw(st.integers(least_taps, 3)) for _ in range(2)]
    stride, padding, dilation = ([draw(st.integers(n, 2)) for _ in range(2)] for n in (1, 0, 1))
    outputs = [draw(st.integers(3, 4 if most < 8 else 9)) for _ in range(2)]
    axes = zip(outputs, kernel, stride, padding, dilation, strict=True)
    sizes = [max(1, (o - 1) * s + (k - 1) * d + 1 - 2 * p) for o, k, s, p, d in axes]
    return draw(st.integers(2, 3)), sizes, kernel, stride, padding, dilation


# Without bounds: under one there is nothing left to compare the error of a large sum with.
_any_activation = st.sampled_from(["none", "relu", "leaky_relu", "silu", "gelu", "hardswish"])


@st.composite
def _any_block(draw, most):
    depthwise = draw(st.booleans())
    n, sizes, kernel, *geometry = draw(_shapes(most, 2 if depthwise else 1))
    c = draw(st.integers(min(most, 4), min(most, 35)))
    o = c if depthwise else draw(st.integers(1, min(most, 35)))
    extras = "".join(draw(st.sets(st.sampled_from("cgbr"))))
    training = draw(st.booleans())
    extras += "s" if not training or draw(st.booleans()) else ""
    weight = (o, 1 if depthwise else c, *kernel)
    act = KINDS[draw(_any_activation)]
    return (n, c, *sizes), (weight, extras, training, *geometry, c if depthwise else 1, act)


@st.composite
def _any_separable(draw, most):
    n, sizes, kernel, *geometry = draw(_shapes(most))
    c, o = draw(st.integers(1, min(most, 35))), draw(st.integers(1, min(most * 4, 70)))
    extras = "".join(draw(st.sets(st.sampled_from("gbGBr"))))
    acts = [KINDS[draw(_any_activation)] for _ in range(2)]
    return (n, c, *sizes), (kernel, o, extras, *geometry, *acts)


FUZZED = {op: _any_separable if "separable" in op else _any_block for op in SPECS}
