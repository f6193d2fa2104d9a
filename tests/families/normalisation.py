"""Layer, group and batch normalisation: shapes of the shipped models, cut, and odd ones."""

import math

import hypothesis.strategies as st
import torch

from torchext.ops import OPS

from .case import Case, Spec

# Case.arguments of layer_norm: normalized_size, whether weight and bias are there, eps.


def _layer(name, shape, size, weight=True, bias=True, eps=1e-5):
    return Case(name, shape, (size, weight, bias, eps))


LAYERS = (
    _layer("vit", (2, 50, 192), 192, eps=1e-6),
    _layer("swin", (1, 7, 7, 96), 96),
    _layer("primes", (3, 5, 11, 13), 143),
    _layer("bare", (3, 5, 7), 35, False, False),
    _layer("no-weight", (2, 3, 65), 65, False, True),
    _layer("no-bias", (4, 33), 33, True, False),
    _layer("all-of-it", (5, 4), 20),
    _layer("many-rows", (300, 17), 17),
    _layer("small-rows", (2, 3, 4), 4),
    _layer("small-bare", (2, 7), 7, False, False),
    _layer("empty-batch", (0, 3, 8), 8),
    _layer("row", (9,), 9),
)


def _finite(x):
    """Infinity times nearly nothing: its sign, or whether it is NaN, is a rounding error."""
    return x.nan_to_num(1, 2, -2)


def _values(values, size, weight, bias):
    return [_finite(values((size,))) if there else None for there in (weight, bias)]


def _layer_arguments(values, x, size, weight, bias, eps):
    return x, size, *_values(values, size, weight, bias), eps


def _add_arguments(values, x, *rest):
    return x, values(x.shape), *_layer_arguments(values, x, *rest)[1:]


def _layer_backward(values, x, size, weight, bias, eps):
    w, _ = _values(values, size, weight, bias)
    _, mean, rstd = OPS["layer_norm"].decomposition(x, size, w, None, eps)
    return _finite(values(x.shape)), x, mean, rstd, size, w, eps, weight or bias


def _layer_terms(shape, size, *rest):
    return max(size, math.prod(shape) // size)


# Case.arguments of group_norm: groups, whether weight and bias are there, eps; of batch_norm:
# weight, bias, running statistics, training, momentum, eps.


def _group(name, shape, groups, weight=True, bias=True, layout="contiguous"):
    return Case(name, shape, (groups, weight, bias, 1e-5), layout)


GROUPS = (
    _group("primes", (2, 10, 5, 7), 5),
    _group("thirty-two", (2, 64, 7, 5), 32, layout="channels_last"),
    _group("one-group", (2, 35, 9, 8), 1, layout="channels_last"),
    _group("channels-130", (2, 130, 5, 4), 13, layout="channels_last"),
    _group("each-channel", (2, 3, 17), 3, True, False),
    _group("flat", (4, 24), 2),
    _group("volume", (2, 4, 3, 2, 5), 2, False, False),
    _group("small-rows", (2, 4, 2, 3), 2, False, True),
    _group("small-channels_last", (2, 4, 2, 3), 2, layout="channels_last"),
    _group("empty-batch", (0, 4, 3, 3), 2),
)


def _batch(name, shape, training=True, running=True, weight=True, bias=True, layout="contiguous"):
    return Case(name, shape, (weight, bias, running, training, 0.1, 1e-5), layout)


BATCHES = (
    _batch("primes", (3, 5, 11, 13)),
    _batch("resnet", (2, 19, 14, 14), layout="channels_last"),
    _batch("resnet-inference", (2, 19, 14, 14), False, layout="channels_last"),
    _batch("inference", (2, 5, 7, 9), False),
    _batch("channels-130", (3, 130, 5, 4), layout="channels_last"),
    _batch("many-pixels", (1, 3, 57, 61), running=False),
    _batch("flat", (9, 33)),
    _batch("sequence", (4, 6, 17), weight=False),
    _batch("volume", (2, 4, 3, 2, 5), weight=False, bias=False),
    _batch("small-rows", (3, 4, 2, 3), bias=False),
    _batch("small-channels_last", (3, 4, 2, 3), layout="channels_last"),
    _batch("small-inference", (3, 4, 2, 3), False, layout="channels_last"),
    _batch("empty-batch", (0, 4, 3, 3), False),
)


def _group_arguments(values, x, groups, weight, bias, eps):
    return x, groups, *_values(values, x.shape[1], weight, bias), eps


def _group_backward(values, x, groups, weight, bias, eps):
    w, _ = _values(values, x.shape[1], weight, bias)
    _, mean, rstd = OPS["group_norm"].decomposition(x, groups, w, None, eps)
    return _finite(values(x.shape)), x, mean, rstd, groups, w, eps, weight or bias


def _batch_arguments(values, x, weight, bias, running, training, momentum, eps):
    w, b = _values(values, x.shape[1], weight, bias)
    mean, var = _values(values, x.shape[1], running, running)
    return x, w, b, mean, var if var is None else var.abs() + 0.5, training, momentum, eps


def _batch_backward(values, x, *rest):
    _, w, _, *running, training, momentum, eps = _batch_arguments(values, x, *rest)
    statistics = OPS["batch_norm"].decomposition(x, w, None, *running, training, momentum, eps)
    return _finite(values(x.shape)), x, *statistics[1:3], w, training, eps, rest[0] or rest[1]


def _channel_terms(shape, *rest):
    return max(1, math.prod(shape))


# Case.arguments of local_response_norm: size, alpha, beta, k.


def _local(name, shape, size=5, alpha=1e-4, beta=0.75, k=1.0, layout="contiguous"):
    return Case(name, shape, (size, alpha, beta, k), layout)


LOCALS = (
    _local("alexnet", (1, 96, 9, 9), k=2.0, layout="channels_last"),
    _local("primes", (3, 37, 11, 5), 5, 0.1),
    _local("even", (2, 19, 3, 4), 4, 0.5, 0.6, layout="channels_last"),
    _local("wider-than-channels", (2, 5, 7), 64, 3.0),
    _local("volume", (2, 4, 3, 2, 5), 3, 0.3),
    _local("flat", (3, 21, 1, 1), 3, 0.3),
    _local("small-rows", (2, 4, 2, 3), 3, 0.3),
    _local("small-channels_last", (2, 4, 2, 3), 2, 0.3, layout="channels_last"),
    _local("empty-batch", (0, 4, 3, 3)),
)


def _local_backward(values, x, *rest):
    y, scale = OPS["local_response_norm"].decomposition(x, *rest)
    return _finite(values(x.shape)), x, y, scale, *rest


def _never(case):
    return False


def _spec(arguments, cases=LAYERS, terms=_layer_terms):
    return Spec(
        cases, arguments, terms, exact=_never, impulses=_never, repeats=False, reordered=True
    )


def _local_spec(arguments=lambda values, x, *rest: (x, *rest)):
    return _spec(arguments, LOCALS, lambda shape, size, *rest: min(size, 2 * shape[1]))


SPECS = {
    "layer_norm": _spec(_layer_arguments),
    "layer_norm_inference": _spec(_layer_arguments),
    "layer_norm_backward": _spec(_layer_backward),
    "add_layer_norm": _spec(_add_arguments),
    "add_layer_norm_inference": _spec(_add_arguments),
    "group_norm": _spec(_group_arguments, GROUPS, _channel_terms),
    "group_norm_inference": _spec(_group_arguments, GROUPS, _channel_terms),
    "group_norm_backward": _spec(_group_backward, GROUPS, _channel_terms),
    "batch_norm": _spec(_batch_arguments, BATCHES, _channel_terms),
    "batch_norm_inference": _spec(_batch_arguments, BATCHES, _channel_terms),
    "batch_norm_backward": _spec(_batch_backward, BATCHES, _channel_terms),
    "local_response_norm": _local_spec(),
    "local_response_norm_inference": _local_spec(),
    "local_response_norm_backward": _local_spec(_local_backward),
}


_X, _W, _S = torch.ones(2, 3, 8), torch.ones(8), torch.ones(2, 3)


def _norm(x=_X, size=8, weight=_W, bias=_W):
    return "layer_norm", (x, size, weight, bias, 1e-5)


def _add(x=_X, residual=_X, size=8):
    return "add_layer_norm", (x, residual, size, _W, _W, 1e-5)


def _back(grad_y=_X, x=_X, mean=_S, rstd=_S, size=8, weight=_W):
    return "layer_norm_backward", (grad_y, x, mean, rstd, size, weight, 1e-5, True)


REFUSED = [
    ("layer_norm of integers", "input", _norm(_X.long())),
    ("layer_norm of a number", "normalized_size", _norm(torch.ones(()), 1)),
    *((f"layer_norm size {n}", "normalized_size", _norm(size=n)) for n in (-8, 0, 7, 2**62)),
    ("layer_norm weight too short", "weight", _norm(weight=_W[1:])),
    ("layer_norm weight of integers", "weight", _norm(weight=_W.long())),
    ("layer_norm bias too long", "bias", _norm(bias=torch.ones(9))),
    ("add_layer_norm residual of another shape", "residual", _add(residual=_X[:1])),
    ("add_layer_norm residual of another dtype", "residual", _add(residual=_X.double())),
    ("layer_norm back: grad of another shape", "grad_y", _back(_X[:1])),
    ("layer_norm back: integers", "input", _back(x=_X.long())),
    ("layer_norm back: too few means", "mean", _back(mean=_S[:1])),
    ("layer_norm back: means of another dtype", "mean", _back(mean=_S.double())),
    ("layer_norm back: too many rstd", "rstd", _back(rstd=torch.ones(7))),
    ("layer_norm back: size 0", "normalized_size", _back(size=0)),
    ("layer_norm back: weight too short", "weight", _back(weight=_W[1:])),
]


_I, _C, _G = torch.ones(2, 6, 3, 3), torch.ones(6), torch.ones(2, 3)


def _group_call(x=_I, groups=3, weight=_C, bias=_C):
    return "group_norm", (x, groups, weight, bias, 1e-5)


def _group_back(grad_y=_I, x=_I, mean=_G, rstd=_G, groups=3, weight=_C):
    return "group_norm_backward", (grad_y, x, mean, rstd, groups, weight, 1e-5, True)


def _batch_call(x=_I, weight=_C, bias=_C, mean=_C, var=_C, training=True):
    return "batch_norm", (x, weight, bias, mean, var, training, 0.1, 1e-5)


def _batch_back(grad_y=_I, x=_I, mean=_C, rstd=_C, weight=_C):
    return "batch_norm_backward", (grad_y, x, mean, rstd, weight, True, 1e-5, True)


REFUSED += [
    *(
        (
            f"{call.__name__[1:]}: {what}",
            argument,
            call(**{"x" if argument == "input" else argument: wrong}),
        )
        for call in (_group_call, _group_back, _batch_call, _batch_back)
        for what, argument, wrong in [
            ("integers", "input", _I.long()),
            ("1-d", "input", _C),
            ("no channels", "input", torch.ones(2, 0, 3)),
            ("no pixels", "input", torch.ones(2, 6, 0, 3)),
            ("short weight", "weight", _C[1:]),
            ("weight of integers", "weight", _C.long()),
        ]
    ),
    *((f"group_norm {n} groups", "groups", _group_call(groups=n)) for n in (-1, 0, 4, 7, 2**62)),
    ("group_norm: short bias", "bias", _group_call(bias=_C[1:])),
    ("batch_norm: short bias", "bias", _batch_call(bias=_C[1:])),
    ("batch_norm: short running_mean", "running_mean", _batch_call(mean=_C[1:])),
    ("batch_norm: no running_var", "running_var", _batch_call(var=None)),
    (
        "batch_norm: inference of none",
        "running_mean",
        _batch_call(mean=None, var=None, training=False),
    ),
    ("group_norm back: grad of another shape", "grad_y", _group_back(_I[:1])),
    ("group_norm back: few means", "mean", _group_back(mean=_G[:1])),
    ("group_norm back: rstd of another dtype", "rstd", _group_back(rstd=_G.double())),
    ("batch_norm back: grad of another shape", "grad_y", _batch_back(_I[:1])),
    ("batch_norm back: few means", "mean", _batch_back(mean=_C[:1])),
    ("batch_norm back: rstd of another dtype", "rstd", _batch_back(rstd=_C.double())),
]


def _local_call(x=_I, size=5):
    return "local_response_norm", (x, size, 1e-4, 0.75, 1.0)


def _local_back(grad_y=_I, x=_I, y=_I, scale=_I, size=5):
    return "local_response_norm_backward", (grad_y, x, y, scale, size, 1e-4, 0.75, 1.0)


REFUSED += [
    ("local_response_norm of integers", "input", _local_call(_I.long())),
    ("local_response_norm of a matrix", "input", _local_call(torch.ones(3, 4))),
    *((f"local_response_norm size {n}", "size", _local_call(size=n)) for n in (-1, 0)),
    ("local_response_norm back: size 0", "size", _local_back(size=0)),
    ("local_response_norm back: integers", "input", _local_back(x=_I.long())),
    ("local_response_norm back: grad of another shape", "grad_y", _local_back(_I[:1])),
    ("local_response_norm back: y of another shape", "y", _local_back(y=_I[:, :1])),
    ("local_response_norm back: y of another dtype", "y", _local_back(y=_I.double())),
    ("local_response_norm back: scale of another shape", "scale", _local_back(scale=_I[:1])),
    ("local_response_norm back: scale of another dtype", "scale", _local_back(scale=_I.double())),
]


@st.composite
def _any_layer(draw, most):
    # Of one element there is nothing left but rounding errors.
    size = draw(st.integers(min(most, 8), 70 if most > 3 else 9))
    leading = draw(st.lists(st.integers(0, min(most, 5)), max_size=2))
    weight, bias = draw(st.booleans()), draw(st.booleans())
    rows = draw(st.integers(min(most, 8), 9))  # one mean alone may be a rounding error
    return (*leading, rows, size), (size, weight, bias, draw(st.sampled_from([1e-5, 1e-3])))


@st.composite
def _any_image(draw, most):
    # Enough values in each set that they are no rounding errors.
    shape = (draw(st.integers(2, 4)), draw(st.integers(min(most, 6), min(most, 35))))
    return *shape, draw(st.integers(4, 6)), draw(st.integers(2, 5))


@st.composite
def _any_group(draw, most):
    shape = draw(_any_image(most))
    groups = draw(st.sampled_from([n for n in range(1, shape[1] + 1) if shape[1] % n == 0]))
    return shape, (groups, draw(st.booleans()), draw(st.booleans()), 1e-5)


@st.composite
def _any_batch(draw, most):
    weight, bias, running = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    training = not running or draw(st.booleans())
    return draw(_any_image(most)), (weight, bias, running, training, 0.1, 1e-3)


@st.composite
def _any_local(draw, most):
    shape = tuple(draw(st.integers(0 if d == 0 else 1, min(most, 9))) for d in range(3))
    shape += tuple(draw(st.lists(st.integers(1, 4), max_size=2)))
    arguments = draw(st.sampled_from([1e-4, 0.01])), draw(st.sampled_from([0.5, 0.75, 1.0])), 1.0
    return shape, (draw(st.integers(1, 12)), *arguments)


FUZZED = {
    op: {"group": _any_group, "batch": _any_batch, "local": _any_local}.get(
        op.split("_")[0], _any_layer
    )
    for op in SPECS
}
