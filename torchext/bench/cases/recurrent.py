"""Recurrent layers and cells: language models, speech, one stream and a few.

Necessary work: forward reads x and the weights and writes y; training writes the gates too, reads
them, x, y, dy and the weights, and writes gradients as large as x and the weights. FLOPs are those
of the products, three times in training.
"""

import torch
from torch import nn

from ..case import SHORT, SIZE, Case

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

# (name, steps, inputs, hidden size, layers, directions)
LAYERS = [
    ("language", 35, 650, 650, 2, 1),  # Zaremba et al.'s medium one on Penn Treebank
    ("characters", 100, 128, 128, 1, 1),
    ("speech", 100, 128, 256, 1, 2),
]
# (inputs, hidden size) of one step
CELLS = [(128, 128), (650, 650)]
QUICK = {"lstm/characters-t100-128-128/b1/f32", "gru/characters-t100-128-128/b8/f32"}


def cases():
    work = [
        (batch, dtype, training) for batch in (1, 8) for dtype in SIZE for training in (False, True)
    ]
    layers = [_layer(kind, *layer, *w) for kind in GATES for layer in LAYERS for w in work]
    return layers + [_cell(kind, *cell, *w) for kind in GATES for cell in CELLS for w in work]


def _layer(kind, name, steps, inputs, hidden, layers, directions, *work):
    return _case(
        f"{kind.lower()}/{name}-t{steps}-{inputs}-{hidden}",
        kind,
        (inputs, hidden, layers),
        {"bidirectional": directions == 2},
        [(steps,), [inputs] + [hidden * directions] * (layers - 1), hidden, directions],
        *work,
    )


def _cell(kind, inputs, hidden, *work):
    name = f"{kind.lower()}_cell/{inputs}-{hidden}"
    return _case(name, f"{kind}Cell", (inputs, hidden), {}, [(), [inputs], hidden, 1], *work)


def _case(name, module, arguments, options, sizes, batch, dtype, training):
    """sizes: of the sequence, () for a cell; each layer's inputs; hidden size; directions."""
    sequence, widths, hidden, directions = sizes
    steps = batch * (sequence[0] if sequence else 1)
    gates = GATES[module.removesuffix("Cell")] * hidden * directions
    weights = gates * sum(width + hidden for width in widths)
    x, y = steps * widths[0], steps * hidden * directions
    moved = x + weights + y
    if training:
        moved = 3 * (x + weights + y) + 2 * steps * gates * len(widths)
    family = name.split("/")[0]
    name = f"{name}/b{batch}/{SHORT[dtype]}"
    return Case(
        name=name + ("/train" if training else ""),
        family=family + ("_train" if training else ""),
        make_inputs=lambda generator: (
            torch.randn((*sequence, batch, widths[0]), generator=generator),
        ),
        reference=lambda: _FirstOutput(getattr(nn, module)(*arguments, **options)),
        ours=lambda: _FirstOutput(getattr(_torchext(), module)(*arguments, **options)),
        bytes=moved * SIZE[dtype],
        flops=2 * steps * weights * (3 if training else 1),
        sum_length=max(max(widths) + hidden, steps if training else 0),
        dtype=dtype,
        layout="contiguous",
        batch=batch,
        training=training,
        quick=name in QUICK and not training,
    )


class _FirstOutput(nn.Module):
    """What most models use of a recurrent layer: not its last states."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        return y[0] if isinstance(y, tuple) else y


def _torchext():
    import torchext.nn

    return torchext.nn
