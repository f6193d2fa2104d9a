"""rnn and rnn_cell: h = tanh(x + r), or relu. Saved for the gradient: h, unrounded."""

from ._recurrent import Layer


def _forward(x, r, h, c, relu):
    y = (x + r).relu() if relu else (x + r).tanh()
    return y, None, y


def _backward(saved, h, dh, dc, relu):
    dx = dh.where(~(saved <= 0), 0) if relu else dh * (1 - saved * saved)
    return dx, dx, None, None


def _layer(name, sequence):
    return Layer(
        name, _forward, _backward, gates=1, saved=1, has_c=False, sequence=sequence, options=1
    )


rnn, rnn_inference, rnn_backward = _layer("rnn", True).make_ops()
rnn_cell, rnn_cell_inference, rnn_cell_backward = _layer("rnn_cell", False).make_ops()
