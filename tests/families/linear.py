"""linear: the layers of the shipped models, with fewer features, and odd ones."""

import math

import hypothesis.strategies as st
import torch

from torchext.ops._packed import pack

from .case import Case, Spec

RELU = 1


def _linear(name, x, features, act=0, extras="b", **kw):
    return Case(name, x, (features, extras, act), **kw)


CASES = (
    _linear("classifier", (1, 130), 40),
    _linear("classifier-batch", (8, 96), 33),
    _linear("mlp", (2, 17, 64), 96, act=RELU),
    _linear("projection", (1, 50, 32), 64, extras="br"),
    _linear("many-rows", (3, 100, 35), 31, act=RELU, extras="br"),
    _linear("primes", (3, 5, 7), 11),
    _linear("one-pixel", (1, 1), 1),
    _linear("vector", (13,), 5),
    _linear("unbatched", (19,), 70, extras=""),
    _linear("rank-6", (2, 1, 2, 1, 3, 9), 4),
    _linear("empty-batch", (0, 6), 4),
    _linear("no-features", (3, 0), 4),
    *(_linear(f"features-{k}", (5, k), n) for k, n in [(15, 33), (17, 31), (65, 64)]),
)


def _forward(values, x, features, extras, act):
    y = (*x.shape[:-1], features)
    bias = values((features,)) if "b" in extras else None
    weight = values.weight((features, x.shape[-1]))
    return x, weight, bias, values(y) if "r" in extras else None, act


def _packed(values, x, features, *rest):
    x, weight, *rest = _forward(values, x, features, *rest)
    return x, pack(weight), features, *rest


def _gate(values, shape, act):
    return torch.relu(values(shape)) if act else None


def _backward_input(values, x, features, extras, act):
    y = (*x.shape[:-1], features)
    return values(y), _gate(values, y, act), values.weight((features, x.shape[-1])), act


def _backward_weight(values, x, features, extras, act):
    y = (*x.shape[:-1], features)
    return values(y), _gate(values, y, act), x, act, "b" in extras


SPECS = {
    "linear": Spec(CASES, _forward, lambda s, *r: s[-1] + 2, reordered=True),
    "linear_inference": Spec(CASES, _forward, lambda s, *r: s[-1] + 2, reordered=True),
    "linear_packed_inference": Spec(CASES, _packed, lambda s, *r: s[-1] + 2, reordered=True),
    "linear_backward_input": Spec(CASES, _backward_input, lambda s, n, *r: n, reordered=True),
    "linear_backward_weight": Spec(
        CASES, _backward_weight, lambda s, *r: max(1, math.prod(s[:-1])), reordered=True, slack=3
    ),
}


# Bad input.


def _x(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


def _call(input=None, weight=None, bias=None, residual=None, activation=0):
    input = _x(2, 5) if input is None else input
    weight = _x(3, 5) if weight is None else weight
    return "linear", (input, weight, bias, residual, activation)


def _packed_call(input=None, panels=None, features=3, bias=None, activation=0):
    input, panels = _x(2, 5) if input is None else input, _x(6, 32) if panels is None else panels
    return "linear_packed_inference", (input, panels, features, bias, None, activation)


def _back(grad=None, y=None, weight=None):
    grad = _x(2, 3) if grad is None else grad
    return "linear_backward_input", (grad, y, _x(3, 5) if weight is None else weight, 1)


def _back_weight(grad=None, y=None, x=None):
    grad = _x(2, 3) if grad is None else grad
    return "linear_backward_weight", (grad, y, _x(2, 5) if x is None else x, 1, True)


REFUSED = [
    ("linear: scalar", "input", _call(input=_x())),
    ("linear: integers", "input", _call(input=_x(2, 5, dtype=torch.int64))),
    ("linear: other features", "input", _call(input=_x(2, 6))),
    ("linear: weight 1-d", "weight", _call(weight=_x(5))),
    ("linear: weight 3-d", "weight", _call(weight=_x(1, 3, 5))),
    ("linear: weight of another dtype", "weight", _call(weight=_x(3, 5, dtype=torch.float64))),
    ("linear: bias of another size", "bias", _call(bias=_x(4))),
    ("linear: bias 2-d", "bias", _call(bias=_x(1, 3))),
    ("linear: residual of another shape", "residual", _call(residual=_x(2, 4))),
    ("linear: residual that broadcasts", "residual", _call(residual=_x(3))),
    ("linear: activation -1", "activation", _call(activation=-1)),
    ("linear: activation 99", "activation", _call(activation=99)),
    ("linear packed: scalar", "input", _packed_call(input=_x())),
    ("linear packed: other features", "panels", _packed_call(input=_x(2, 6))),
    ("linear packed: no outputs", "out_features", _packed_call(features=0)),
    ("linear packed: many outputs", "panels", _packed_call(features=33)),
    ("linear packed: huge outputs", "panels", _packed_call(features=2**62)),
    ("linear packed: 1-d panels", "panels", _packed_call(panels=_x(192))),
    ("linear packed: double", "panels", _packed_call(panels=_x(6, 32, dtype=torch.float64))),
    ("linear packed: bias of another size", "bias", _packed_call(bias=_x(4))),
    ("linear packed: activation 99", "activation", _packed_call(activation=99)),
    ("linear: grad of other features", "grad_y", _back(grad=_x(2, 4))),
    ("linear: grad scalar", "grad_y", _back(grad=_x())),
    ("linear: y of another shape", "y", _back(y=_x(2, 4))),
    ("linear: backward weight 1-d", "weight", _back(weight=_x(3))),
    ("linear: x of other rows", "x", _back_weight(x=_x(3, 5))),
    ("linear: x scalar", "x", _back_weight(x=_x())),
    ("linear: x of another rank", "x", _back_weight(x=_x(1, 2, 5))),
]


# Any input.


@st.composite
def _linears(draw, most):
    sizes = st.integers(1, 9) | st.sampled_from([min(n, most) for n in (16, 17, 33, 70)])
    rows = draw(st.lists(st.integers(0, 5) | sizes, max_size=3))
    extras = draw(st.sampled_from(["", "b", "r", "br"]))
    return (*rows, draw(sizes)), (draw(sizes), extras, draw(st.sampled_from([0, RELU])))


FUZZED = dict.fromkeys(SPECS, _linears)
