"""lstm and lstm_cell: gates i, f, g, o; c = f c + i g; h = o tanh(c).

Saved for the gradient: the gates, c before the step, and h.
"""

import torch

from ._recurrent import Layer


def _forward(x, r, h, c):
    i, f, g, o = (x + r).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * c + i * g
    y = o * new.tanh()
    return y, new, torch.cat([i, f, g, o, c, y], -1)


def _backward(saved, h, dh, dc):
    i, f, g, o, c, _ = saved.chunk(6, -1)
    t = (f * c + i * g).tanh()
    dc = dc + dh * o * (1 - t * t)
    di, df = dc * g * (1 - i) * i, dc * c * (1 - f) * f
    dg, do = dc * i * (1 - g * g), dh * t * (1 - o) * o
    dx = torch.cat([di, df, dg, do], -1)
    return dx, dx, None, dc * f


def _layer(name, sequence):
    return Layer(name, _forward, _backward, gates=4, saved=6, has_c=True, sequence=sequence)


lstm, lstm_inference, lstm_backward = _layer("lstm", True).make_ops()
lstm_cell, lstm_cell_inference, lstm_cell_backward = _layer("lstm_cell", False).make_ops()
