"""binary_cross_entropy and dropout: element by element."""

import hypothesis.strategies as st
import torch

from .case import Case, Spec, with_layout

# Case.arguments of binary_cross_entropy: whether weight and pos_weight are there, logits.
BINARY = (
    Case("primes", (3, 5, 11, 13), (True, True, True)),
    Case("probabilities", (3, 5, 11, 13), (True, False, False), "channels_last"),
    Case("small-rows", (2, 3, 7), (False, True, True)),
    Case("small-probabilities", (2, 3, 7), (False, False, False)),
    Case("pieces", (4099, 3), (False, False, True)),
    Case("number", (), (False, False, True)),
    Case("empty-batch", (0, 3), (False, False, True)),
)
# of dropout: p, seed, scaled.
DROPOUT = (
    Case("primes", (3, 5, 11, 13), (0.5, 1, True)),
    with_layout(Case("channels", (2, 35, 7, 9), (0.1, -(2**62) - 7, True)), "channels_last"),
    Case("pieces", (4099, 3), (0.3, 2**40 + 5, False)),
    Case("small-rows", (2, 150), (0.25, 12345678901, True)),
    Case("small-none", (2, 9), (0.0, 3, True)),
    Case("small-log", (2, 9), (1.0, 3, True)),
    Case("number", (), (0.5, 4, False)),
    Case("empty-batch", (0, 3), (0.5, 1, True)),
)


def _probabilities(x):
    return x.nan_to_num(1, 1, 1).sigmoid()


def _binary(values, x, weight, pos_weight, logits):
    extra = [_probabilities(values(x.shape)) + 0.5 if t else None for t in (weight, pos_weight)]
    x = x if logits else _probabilities(x)
    return x, _probabilities(values(x.shape)), *extra, logits


def _binary_backward(values, x, *rest):
    # Finite: infinity times a slope of nearly nothing has the sign of a rounding error.
    return values(x.shape).nan_to_num(1, 2, -2), *_binary(values, x, *rest)


def _never(case):
    return False


def _is_exact(case):
    return case.arguments[0] in (0, 0.5, 1) or not case.arguments[2]


_BINARY = {"exact": _never, "impulses": _never}
_DROPOUT = {"exact": _is_exact, "impulses": _is_exact}
SPECS = {
    "binary_cross_entropy": Spec(BINARY, _binary, **_BINARY),
    "binary_cross_entropy_inference": Spec(BINARY, _binary, **_BINARY),
    "binary_cross_entropy_backward": Spec(BINARY, _binary_backward, **_BINARY),
    "dropout": Spec(DROPOUT, **_DROPOUT),
    "dropout_inference": Spec(DROPOUT, **_DROPOUT),
}

_X = torch.ones(4, 3)


def _binary_call(x=_X, target=_X, weight=_X, pos_weight=_X, logits=True):
    return "binary_cross_entropy", (x, target, weight, pos_weight, logits)


def _binary_back(grad_loss=_X, **rest):
    return "binary_cross_entropy_backward", (grad_loss, *_binary_call(**rest)[1])


REFUSED = [
    *(
        (f"{call.__name__[1:]}: {what}", argument, call(**{name: wrong}))
        for call in (_binary_call, _binary_back)
        for what, argument, name, wrong in [
            ("integers", "input", "x", _X.long()),
            ("target of another shape", "target", "target", _X[:1]),
            ("target of another dtype", "target", "target", _X.double()),
            ("weight of another shape", "weight", "weight", _X[:1]),
            ("pos_weight of another shape", "pos_weight", "pos_weight", _X[:1]),
            ("pos_weight of probabilities", "pos_weight", "logits", False),
        ]
    ),
    ("binary_back: grad of another shape", "grad_loss", _binary_back(_X[:1])),
    ("dropout of integers", "input", ("dropout", (_X.long(), 0.5, 1, True))),
    ("dropout p -0.1", "p", ("dropout", (_X, -0.1, 1, True))),
    ("dropout p 1.1", "p", ("dropout", (_X, 1.1, 1, True))),
    ("dropout p NaN", "p", ("dropout", (_X, float("nan"), 1, True))),
]


@st.composite
def _any_binary(draw, most):
    logits = draw(st.booleans())
    shape = draw(st.lists(st.integers(1, min(most, 9)), max_size=3))
    # Where few losses are all but 0 they cancel, in float64's reference too.
    return (*shape, 33), (draw(st.booleans()), logits and draw(st.booleans()), logits)


@st.composite
def _any_dropout(draw, most):
    shape = draw(st.lists(st.integers(0, min(most, 9)) | st.just(most), max_size=3))
    p, seed = draw(st.floats(0, 1)), draw(st.integers(-(2**63), 2**63 - 1))
    return tuple(shape), (p, seed, p < 0.9 and draw(st.booleans()))


FUZZED = {op: _any_dropout if op.startswith("drop") else _any_binary for op in SPECS}
