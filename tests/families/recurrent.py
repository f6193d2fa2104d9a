"""Recurrent layers and cells: sizes used in practice, cut down, and odd ones."""

import hypothesis.strategies as st
import torch

from torchext.ops import OPS

from .case import Case, Spec

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _layer(name, shape, hidden, reverse=False, biased=True, batch_sizes=()):
    return Case(name, shape, (hidden, biased, list(batch_sizes), reverse))


SEQUENCES = [
    _layer("speech", (6, 1, 40), 128),
    _layer("characters", (4, 9, 65), 100),
    _layer("forecast", (5, 5, 13), 64, reverse=True),
    _layer("tiny", (2, 2, 3), 4),
    _layer("tiny-reversed", (2, 1, 2), 3, reverse=True, biased=False),
    _layer("tiny-packed", (3, 2), 3, batch_sizes=(2, 1)),
    _layer("primes", (2, 5, 7), 13),
    _layer("narrow", (2, 5, 1), 3),
    _layer("one-step", (1, 3, 10), 7),
    _layer("empty-batch", (2, 0, 4), 5),
    _layer("biasless", (4, 3, 12), 17, biased=False),
    _layer("packed", (13, 10), 16, batch_sizes=(5, 4, 2, 1, 1)),
    _layer("packed-reversed", (13, 10), 19, reverse=True, batch_sizes=(5, 4, 2, 1, 1)),
    _layer("packed-evenly", (6, 4), 9, batch_sizes=(3, 3)),
    _layer("many-rows", (2, 61, 5), 35),
    *(_layer(f"hidden-{h}", (2, 5, 3), h) for h in (15, 32, 63)),
]


def _cell(name, batch, inputs, hidden, biased=True):
    return Case(name, (batch, inputs), (hidden, biased))


CELLS = [
    _cell("speech", 1, 40, 128),
    _cell("characters", 9, 65, 100),
    _cell("tiny", 2, 3, 4),
    _cell("tiny-biasless", 1, 2, 3, False),
    _cell("primes", 5, 7, 11),
    _cell("narrow", 5, 1, 3),
    _cell("empty-batch", 0, 4, 5),
    _cell("many-rows", 61, 5, 35),
    *(_cell(f"hidden-{h}", 2, 3, h) for h in (15, 32, 63)),
]


def _at_most(x, most, size=torch.abs):
    """The tensor, scaled if the size of its finite numbers is larger, its memory as it was.

    Large ones saturate gates, and then nothing but rounding errors is left of their gradients.
    """
    if x.numel():
        memory = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0)
        memory.mul_((most / size(x.nan_to_num(0, 0, 0)).max()).clamp(max=1))
    return x


def _small(w):
    """A weight that leaves numbers about as large as they were, also where they are all alike."""
    return _at_most(w, 1, lambda w: w.sum(-1).abs())


def _forward(op, options=()):
    gates = GATES[op.removesuffix("_cell")]

    def arguments(values, x, hidden, biased, *steps):
        batch = steps[0][0] if steps and steps[0] else x.shape[-2]
        x = _at_most(x, 1)
        states = [_at_most(values((batch, hidden)), 1) for _ in range(1 + (gates == 4))]
        shapes = [(gates * hidden, x.shape[-1]), (gates * hidden, hidden)]
        weights = [_small(values.weight(shape)) for shape in shapes]
        biases = [
            _at_most(values.weight((gates * hidden,)), 0.5) if biased else None for _ in range(2)
        ]
        return x, *states, *weights, *biases, *steps, *options

    return arguments


def _backward(op, options=()):
    forward = _forward(op, options)

    def arguments(values, x, *rest):
        args = forward(values, x, *rest)
        *ys, saved = OPS[op].decomposition(*args)
        return *(_at_most(values(y.shape), 2) for y in ys), *args, saved

    return arguments


def _terms(gates):
    """Of the longest sum of all: of gradients, over all gates or all rows. Each is followed by a
    chain of roundings, which count like eight times as many terms: float64's reference, being
    torch's own, allows for none."""

    def terms(shape, hidden, *rest):
        rows = shape[0] * (shape[1] if len(shape) == 3 else 1)
        return 8 * (gates * hidden + shape[-1] + rows)

    return terms


def _specs(op, cases, options=()):
    terms = _terms(GATES[op.removesuffix("_cell")])
    how = {"exact": lambda case: False, "impulses": lambda case: False, "reordered": True}
    return {
        op: Spec(cases, _forward(op, options), terms, **how),
        f"{op}_inference": Spec(cases, _forward(op, options), terms, **how),
        f"{op}_backward": Spec(cases, _backward(op, options), terms, slack=3, **how),
    }


SPECS = {
    **_specs("lstm", SEQUENCES),
    **_specs("lstm_cell", CELLS),
    **_specs("gru", SEQUENCES),
    **_specs("gru_cell", CELLS),
    **_specs("rnn", SEQUENCES, (False,)),
    **_specs("rnn_cell", CELLS, (True,)),
}


def _args(op="lstm", saved=None, grad=None, **wrong):
    """A call with T = 3, B = 2, I = 5, H = 7, but for what is wrong; packed if batch_sizes say."""
    gates = GATES[op.split("_")[0]]
    cell, backward = "_cell" in op, op.endswith("_backward")
    shapes = {
        "input": (2, 5) if cell else (3, 2, 5),
        "hx": (2, 7),
        "cx": (2, 7),
        "w_ih": (gates * 7, 5),
        "w_hh": (gates * 7, 7),
        "b_ih": (gates * 7,),
        "b_hh": (gates * 7,),
    }
    if gates < 4:
        del shapes["cx"]
    args = [wrong.get(name, torch.ones(shape)) for name, shape in shapes.items()]
    if not cell:
        args += [wrong.get("batch_sizes", []), False]
    if gates == 1:
        args += [False]
    if backward:
        y = torch.ones(2, 7) if cell else torch.ones(3, 2, 7)
        grads = [y if grad is None else grad]
        grads += [torch.ones(2, 7)] * ((gates == 4) + (not cell))
        width = {4: 6, 3: 5, 1: 1}[gates] * 7
        rows = 2 if cell else 6
        args = [*grads, *args, torch.ones(rows, width) if saved is None else saved]
    return op, tuple(args)


HUGE = 2**62
# (what is wrong, the argument that the message must name, the call)
REFUSED = [
    *(
        (f"{op}: {what}", argument, _args(op, **wrong))
        for op in ("lstm", "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell")
        for what, argument, wrong in [
            ("1-d", "input", {"input": torch.ones(5)}),
            ("4-d", "input", {"input": torch.ones(1, 3, 2, 5)}),
            ("int64", "input", {"input": torch.ones(2, 5).long()[(None,) * ("_" not in op)]}),
            ("complex", "hx", {"hx": torch.ones(2, 7, dtype=torch.complex64)}),
            ("hx of another batch", "hx", {"hx": torch.ones(3, 7)}),
            ("hx 1-d", "hx", {"hx": torch.ones(7)}),
            ("hx of another dtype", "hx", {"hx": torch.ones(2, 7).double()}),
            (
                "w_ih of other features",
                "w_ih",
                {"w_ih": torch.ones(GATES[op[:-5] if "_" in op else op] * 7, 4)},
            ),
            ("w_ih 1-d", "w_ih", {"w_ih": torch.ones(28)}),
            ("b_ih without data", "b_ih", {"b_ih": torch.ones(28, device="meta")}),
            ("w_ih without rows", "w_ih", {"w_ih": torch.ones(0, 5)}),
            ("w_hh 3-d", "w_hh", {"w_hh": torch.ones(28, 7, 1)}),
            ("w_hh of another size", "w_hh", {"w_hh": torch.ones(6, 7)}),
            ("b_ih of another size", "b_ih", {"b_ih": torch.ones(5)}),
            ("b_hh of another size", "b_hh", {"b_hh": torch.ones(1)}),
        ]
    ),
    ("cx of another size", "cx", _args(cx=torch.ones(2, 6))),
    ("cell: cx of another size", "cx", _args("lstm_cell", cx=torch.ones(2, 6))),
    ("cell: hx of another size", "hx", _args("lstm_cell", hx=torch.ones(2, 6))),
    ("rows that are no gates", "w_ih", _args(w_ih=torch.ones(27, 5))),
    ("no steps", "input", _args(input=torch.ones(0, 2, 5))),
    ("packed 3-d", "input", _args(batch_sizes=[2, 2, 2])),
    ("batch_sizes grow", "batch_sizes", _args(input=torch.ones(3, 5), batch_sizes=[1, 2])),
    ("batch_sizes of 0", "batch_sizes", _args(input=torch.ones(3, 5), batch_sizes=[2, 1, 0])),
    ("batch_sizes of -1", "batch_sizes", _args(input=torch.ones(3, 5), batch_sizes=[-1, -2])),
    ("batch_sizes of too few", "batch_sizes", _args(input=torch.ones(3, 5), batch_sizes=[2])),
    ("batch_sizes of too many", "batch_sizes", _args(input=torch.ones(3, 5), batch_sizes=[2, 2])),
    ("batch_sizes 2^62", "batch_sizes", _args(input=torch.ones(3, 5), batch_sizes=[HUGE] * 3)),
    *(
        (f"{op}: {what}", argument, _args(f"{op}_backward", **wrong))
        for op in ("lstm", "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell")
        for what, argument, wrong in [
            (
                "grad of another size",
                "grad_hy" if "_" in op else "grad_y",
                {"grad": torch.ones(2, 6)},
            ),
            ("saved of another width", "saved", {"saved": torch.ones(6, 8)}),
            ("saved of another dtype", "saved", {"saved": torch.ones(6, 7).double()}),
            ("saved 1-d", "saved", {"saved": torch.ones(7)}),
            ("saved without data", "saved", {"saved": torch.ones(6, 7, device="meta")}),
            ("another batch", "hx", {"hx": torch.ones(3, 7)}),
        ]
    ),
]


# Any layer.


@st.composite
def _layers(draw, most):
    inputs, hidden = (
        draw(st.integers(1, most)),
        draw(st.integers(2, most) if most > 3 else st.just(3)),
    )
    reverse, biased = draw(st.booleans()), draw(st.booleans())
    if draw(st.booleans()):
        sizes = sorted(draw(st.lists(st.integers(1, min(most, 5)), min_size=1, max_size=3)))[::-1]
        return (sum(sizes), inputs), (hidden, biased, sizes, reverse)
    batch = draw(st.integers(0, 3) | st.just(min(most, 31)))
    return (draw(st.integers(1, 3)), batch, inputs), (hidden, biased, [], reverse)


@st.composite
def _cells(draw, most):
    batch, inputs = draw(st.integers(0, most)), draw(st.integers(1, most))
    return (batch, inputs), (draw(st.integers(2, most)), draw(st.booleans()))


FUZZED = {op: _cells if "_cell" in op else _layers for op in SPECS}
