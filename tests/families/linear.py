"""linear: the layers of the shipped models, with fewer features, and odd ones."""

import math

import torch

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


def _gate(values, shape, act):
    return torch.relu(values(shape)) if act else None


def _backward_input(values, x, features, extras, act):
    y = (*x.shape[:-1], features)
    return values(y), _gate(values, y, act), values.weight((features, x.shape[-1])), act


def _backward_weight(values, x, features, extras, act):
    y = (*x.shape[:-1], features)
    return values(y), _gate(values, y, act), x, act


SPECS = {
    "linear": Spec(CASES, _forward, lambda s, *r: s[-1] + 2, reordered=True),
    "linear_inference": Spec(CASES, _forward, lambda s, *r: s[-1] + 2, reordered=True),
    "linear_backward_input": Spec(CASES, _backward_input, lambda s, n, *r: n, reordered=True),
    "linear_backward_weight": Spec(
        CASES, _backward_weight, lambda s, *r: max(1, math.prod(s[:-1])), reordered=True, slack=3
    ),
}
