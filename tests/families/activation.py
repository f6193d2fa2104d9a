"""Activations: every kind, and the edges of vectors and of pieces of work."""

import hypothesis.strategies as st
import torch

from torchext.ops._activation import KINDS

from .case import Case, Spec, with_layout

PIECEWISE = {KINDS[name] for name in ("none", "relu", "relu6", "leaky_relu", "step")}
CASES = (
    Case("primes", (3, 5, 11, 13), (KINDS["silu"],)),
    Case("mobilenet", (2, 19, 14, 14), (KINDS["relu6"],), "channels_last"),
    Case("mobilenet-3", (2, 19, 14, 14), (KINDS["hardswish"],), "channels_last"),
    Case("vit", (2, 50, 96), (KINDS["gelu"],)),
    Case("pieces", (4099, 3), (KINDS["tanh"],)),
    *(Case(f"kind-{name}", (2, 1, 3, 7), (kind,)) for name, kind in KINDS.items()),
    *(Case(f"columns-{n}", (n,), (KINDS["relu"],)) for n in (1, 15, 17, 33)),
    Case("number", (), (KINDS["sigmoid"],)),
    Case("six-dimensions", (2, 1, 3, 2, 1, 5), (KINDS["elu"],)),
    Case("empty-batch", (0, 3, 4, 4), (KINDS["relu"],)),
    with_layout(Case("unbatched", (3, 5, 4), (KINDS["gelu_tanh"],)), "channels_last"),
)


def _is_exact(case):
    return case.arguments[0] in PIECEWISE - {KINDS["leaky_relu"]}


def _is_exact_for_01(case):
    return case.arguments[0] in PIECEWISE


def _backward(values, x, kind):
    return values(x.shape), x, kind


SPECS = {
    "activation": Spec(CASES, exact=_is_exact, impulses=_is_exact_for_01),
    "activation_inference": Spec(CASES, exact=_is_exact, impulses=_is_exact_for_01),
    "activation_backward": Spec(CASES, _backward, exact=_is_exact, impulses=_is_exact),
}


_BACK = "activation_backward"
_X = torch.ones(2, 3)
REFUSED = [
    ("activation of integers", "input", ("activation", (_X.long(), 1))),
    ("activation of bool", "input", ("activation", (_X.bool(), 1))),
    ("activation kind -1", "kind", ("activation", (_X, -1))),
    ("activation kind 13", "kind", ("activation", (_X, 13))),
    ("activation back: kind 2^62", "kind", (_BACK, (_X, _X, 2**62))),
    ("activation back: other shape", "grad_y", (_BACK, (_X[:1], _X, 1))),
    ("activation back: other rank", "grad_y", (_BACK, (_X[0], _X, 1))),
    ("activation back: other dtype", "grad_y", (_BACK, (_X.double(), _X, 1))),
    ("activation back: integers", "input", (_BACK, (_X, _X.long(), 1))),
]


@st.composite
def _any(draw, most):
    shape = draw(st.lists(st.integers(0, min(most, 9)) | st.just(most), max_size=4))
    # Where gelu is all but 0 it cancels, in float64's reference too.
    return tuple(shape), (
        draw(st.sampled_from([k for name, k in KINDS.items() if "gelu" not in name])),
    )


FUZZED = dict.fromkeys(SPECS, _any)
