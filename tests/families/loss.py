"""softmax and losses: classifiers, attention scores, segmentation maps, and odd shapes."""

import math

import hypothesis.strategies as st
import torch

from torchext.ops import OPS

from .case import Case, Spec

# Case.arguments of softmax: dim, log.
SOFTMAX = (
    Case("primes", (2, 3, 5, 13), (-1, False)),
    Case("attention", (2, 3, 17, 50), (3, False)),
    Case("imagenet", (3, 1000), (1, True)),
    Case("channels", (2, 21, 7, 9), (1, True)),
    Case("channels-channels_last", (2, 21, 7, 9), (1, False), "channels_last"),
    Case("rows-channels_last", (2, 3, 7, 9), (2, True), "channels_last"),
    Case("first", (5, 33), (0, False)),
    Case("row", (7,), (0, True)),
    Case("number", (), (0, False)),
    Case("small-rows", (2, 5), (1, False)),
    Case("small-log", (2, 5), (-1, True)),
    Case("small-inner", (2, 3, 4), (1, True)),
    Case("empty-batch", (0, 4), (1, False)),
)
# of cross_entropy: kind of target, whether there are weights, reduction, smoothing
LOSSES = (
    Case("primes", (3, 5, 11, 13), ("classes", True, 0, 0.1)),
    Case("imagenet", (4, 1000), ("classes", False, 1, 0.0)),
    Case("smoothed", (5, 33), ("classes", True, 0, 0.1)),
    Case("probabilities", (5, 33), ("probabilities", True, 1, 0.1)),
    Case("mixup", (4, 1000), ("probabilities", False, 2, 0.0)),
    Case("segmentation", (2, 21, 7, 9), ("classes", False, 2, 0.0), "channels_last"),
    Case("row", (7,), ("classes", False, 1, 0.0)),
    Case("small-rows", (3, 5), ("classes", True, 1, 0.1)),
    Case("small-none", (3, 5), ("classes", False, 0, 0.0)),
    Case("small-probabilities", (2, 3, 2), ("probabilities", True, 2, 0.2)),
    Case("empty-batch", (0, 4), ("classes", False, 2, 0.0)),
)
IGNORED = 1


def _softmax_backward(values, x, dim, log):
    return values(x.shape), OPS["softmax"].decomposition(x, dim, log), dim, log


def _loss_arguments(values, x, kind, weighted, reduction, smoothing):
    axis = 1 if x.dim() > 1 else 0
    classes, items = x.shape[axis], [n for d, n in enumerate(x.shape) if d != axis]
    if kind == "classes":
        target = torch.arange(math.prod(items)).mul(7).remainder(classes).view(items)
        target = target.to(x.device)
    else:
        target = values(x.shape).nan_to_num(1, 1, 1).abs().softmax(axis)
    weight = values((classes,)).nan_to_num(1, 1, 1).abs() + 0.5 if weighted else None
    ignored = IGNORED if classes > 1 else -100
    return x, target, weight, reduction, ignored, smoothing


def _loss_backward(values, x, *rest):
    x, target, weight, *rest = _loss_arguments(values, x, *rest)
    loss, *saved = OPS["cross_entropy"].decomposition(x, target, weight, *rest)
    grad = values(loss.shape)
    grad = torch.where(grad.abs() < 0.1, 1, grad)  # all subnormal, there is no relative error
    return grad, x, target, weight, *saved, *rest


def _never(case):
    return False


def _terms(shape, *rest):
    return max(1, math.prod(shape))


def _spec(cases, arguments):
    return Spec(
        cases, arguments, _terms, exact=_never, impulses=_never, repeats=False, reordered=True
    )


def _as_they_are(values, x, *rest):
    return x, *rest


SPECS = {
    "softmax": _spec(SOFTMAX, _as_they_are),
    "softmax_inference": _spec(SOFTMAX, _as_they_are),
    "softmax_backward": _spec(SOFTMAX, _softmax_backward),
    "cross_entropy": _spec(LOSSES, _loss_arguments),
    "cross_entropy_inference": _spec(LOSSES, _loss_arguments),
    "cross_entropy_backward": _spec(LOSSES, _loss_backward),
}

_X, _T, _W, _S = torch.ones(4, 3), torch.zeros(4).long(), torch.ones(3), torch.ones(4)
_ONE = torch.ones(())


def _loss(x=_X, target=_T, weight=_W, reduction=1, smoothing=0.0):
    return "cross_entropy", (x, target, weight, reduction, -100, smoothing)


def _loss_back(grad_loss=_ONE, x=_X, target=_T, weight=_W, lse=_S, total_weight=_ONE, reduction=1):
    rest = (x, target, weight, lse, total_weight, reduction, -100, 0.0)
    return "cross_entropy_backward", (grad_loss, *rest)


REFUSED = [
    ("softmax of integers", "input", ("softmax", (_X.long(), 0, True))),
    ("softmax dim 2", "dim", ("softmax", (_X, 2, True))),
    ("softmax dim -3", "dim", ("softmax", (_X, -3, False))),
    ("softmax back: integers", "y", ("softmax_backward", (_X, _X.long(), 0, True))),
    ("softmax back: other shape", "grad_y", ("softmax_backward", (_X[:1], _X, 0, True))),
    ("softmax back: dim 2^62", "dim", ("softmax_backward", (_X, _X, 2**62, True))),
    *(
        (f"{call.__name__[1:]}: {what}", argument, call(**{name: wrong}))
        for call in (_loss, _loss_back)
        for what, argument, name, wrong in [
            ("integers", "input", "x", _X.long()),
            ("a number", "input", "x", _ONE),
            ("no classes", "input", "x", torch.ones(4, 0)),
            ("few targets", "target", "target", _T[:1]),
            ("targets of int32", "target", "target", _T.int()),
            ("few probabilities", "target", "target", _X[:1]),
            ("short weight", "weight", "weight", _W[:1]),
            ("reduction 3", "reduction", "reduction", 3),
        ]
    ),
    ("loss: smoothing 2", "label_smoothing", _loss(smoothing=2.0)),
    ("loss_back: few lse", "lse", _loss_back(lse=_S[:1])),
    ("loss_back: lse of another dtype", "lse", _loss_back(lse=_S.double())),
    ("loss_back: total of two", "total_weight", _loss_back(total_weight=_S[:2])),
    ("loss_back: too many gradients", "grad_loss", _loss_back(grad_loss=_S)),
]


@st.composite
def _any_softmax(draw, most):
    shape = draw(st.lists(st.integers(3, max(3, min(most, 9))), min_size=1, max_size=3))
    shape.insert(draw(st.integers(0, len(shape))), draw(st.integers(3, most)))
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    return tuple(shape), (dim, draw(st.booleans()))


@st.composite
def _any_loss(draw, most):
    shape = draw(st.lists(st.integers(2, min(most, 9)), max_size=2))
    shape = (draw(st.integers(2, 5)), draw(st.integers(2, most)), *shape)
    kind = draw(st.sampled_from(["classes", "probabilities"]))
    smoothing = draw(st.sampled_from([0.0, 0.1]))
    return shape, (kind, draw(st.booleans()), draw(st.integers(0, 2)), smoothing)


FUZZED = {op: _any_softmax if op.startswith("soft") else _any_loss for op in SPECS}
