"""gru and gru_cell: gates r, z, n; n = tanh(x_n + r h_n); h = n + z (h - n).

Saved for the gradient: the gates, the third's h_n, and h.
"""

import torch

from ._recurrent import Layer


def _forward(x, r, h, c):
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), r.chunk(3, -1)
    reset, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + reset * hn).tanh()
    y = n + z * (h - n)
    return y, None, torch.cat([reset, z, n, hn, y], -1)


def _backward(saved, h, dh, dc):
    reset, z, n, hn, _ = saved.chunk(5, -1)
    dxn = (dh - dh * z) * (1 - n * n)
    dr, dz = dxn * hn * (1 - reset) * reset, dh * (h - n) * (1 - z) * z
    return torch.cat([dr, dz, dxn], -1), torch.cat([dr, dz, dxn * reset], -1), dh * z, None


def _layer(name, sequence):
    return Layer(name, _forward, _backward, gates=3, saved=5, has_c=False, sequence=sequence)


gru, gru_inference, gru_backward = _layer("gru", True).make_ops()
gru_cell, gru_cell_inference, gru_cell_backward = _layer("gru_cell", False).make_ops()
