"""lstm, gru, rnn and their cells: products by cuBLAS, the input's of all steps at once; a cell is
one kernel a step, BLOCK hidden units a program. Not timed yet.
"""

import torch
import triton
import triton.language as tl

from torchext.ops import OPS
from torchext.ops._recurrent import LAYERS

from ._activation import sigmoid, tanh

BLOCK = 128  # few: a step has few units, and a GPU many processors

# The cells, as csrc/common/cells.h has them.
LSTM, GRU, RNN_TANH, RNN_RELU = (tl.constexpr(i) for i in range(4))
KINDS = {"lstm": LSTM, "gru": GRU, "rnn": RNN_TANH}


@triton.jit
def _units(total, H, BLOCK: tl.constexpr):
    """(row, unit, place in [rows, H], whether inside) of this program's."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return at // H, at % H, at, at < total


@triton.jit
def _cell_kernel(x, r, h, c, y, c_new, saved, total, H, cell: tl.constexpr, BLOCK: tl.constexpr):
    row, unit, at, inside = _units(total, H, BLOCK)
    if cell == LSTM:
        k = row * 4 * H + unit
        i = sigmoid(tl.load(x + k, inside) + tl.load(r + k, inside))
        f = sigmoid(tl.load(x + k + H, inside) + tl.load(r + k + H, inside))
        g = tanh(tl.load(x + k + 2 * H, inside) + tl.load(r + k + 2 * H, inside))
        o = sigmoid(tl.load(x + k + 3 * H, inside) + tl.load(r + k + 3 * H, inside))
        old = tl.load(c + at, inside)
        new = f * old + i * g
        out = o * tanh(new)
        tl.store(c_new + at, new, inside)
        if saved is not None:
            s = saved + row * 6 * H + unit
            tl.store(s, i, inside)
            tl.store(s + H, f, inside)
            tl.store(s + 2 * H, g, inside)
            tl.store(s + 3 * H, o, inside)
            tl.store(s + 4 * H, old, inside)
            tl.store(s + 5 * H, out, inside)
    elif cell == GRU:
        k = row * 3 * H + unit
        reset = sigmoid(tl.load(x + k, inside) + tl.load(r + k, inside))
        z = sigmoid(tl.load(x + k + H, inside) + tl.load(r + k + H, inside))
        hn = tl.load(r + k + 2 * H, inside)
        n = tanh(tl.load(x + k + 2 * H, inside) + reset * hn)
        out = n + z * (tl.load(h + at, inside) - n)
        if saved is not None:
            s = saved + row * 5 * H + unit
            tl.store(s, reset, inside)
            tl.store(s + H, z, inside)
            tl.store(s + 2 * H, n, inside)
            tl.store(s + 3 * H, hn, inside)
            tl.store(s + 4 * H, out, inside)
    else:
        v = tl.load(x + at, inside) + tl.load(r + at, inside)
        out = tl.where(v < 0, 0.0, v) if cell == RNN_RELU else tanh(v)
        if saved is not None:
            tl.store(saved + at, out, inside)
    tl.store(y + at, out, inside)


@triton.jit
def _cell_backward_kernel(
    saved, h, dh, dc, dx, dr, dh_old, dc_old, total, H, cell: tl.constexpr, BLOCK: tl.constexpr
):
    row, unit, at, inside = _units(total, H, BLOCK)
    grad = tl.load(dh + at, inside)
    if cell == LSTM:
        s = saved + row * 6 * H + unit
        i = tl.load(s, inside)
        f = tl.load(s + H, inside)
        g = tl.load(s + 2 * H, inside)
        o = tl.load(s + 3 * H, inside)
        old = tl.load(s + 4 * H, inside)
        t = tanh(f * old + i * g)
        d = tl.load(dc + at, inside) + grad * o * (1 - t * t)
        k = dx + row * 4 * H + unit
        tl.store(k, d * g * (1 - i) * i, inside)
        tl.store(k + H, d * old * (1 - f) * f, inside)
        tl.store(k + 2 * H, d * i * (1 - g * g), inside)
        tl.store(k + 3 * H, grad * t * (1 - o) * o, inside)
        tl.store(dc_old + at, d * f, inside)
    elif cell == GRU:
        s = saved + row * 5 * H + unit
        reset = tl.load(s, inside)
        z = tl.load(s + H, inside)
        n = tl.load(s + 2 * H, inside)
        hn = tl.load(s + 3 * H, inside)
        dxn = (grad - grad * z) * (1 - n * n)
        dxr = dxn * hn * (1 - reset) * reset
        dxz = grad * (tl.load(h + at, inside) - n) * (1 - z) * z
        k = row * 3 * H + unit
        tl.store(dx + k, dxr, inside)
        tl.store(dx + k + H, dxz, inside)
        tl.store(dx + k + 2 * H, dxn, inside)
        tl.store(dr + k, dxr, inside)
        tl.store(dr + k + H, dxz, inside)
        tl.store(dr + k + 2 * H, dxn * reset, inside)
        tl.store(dh_old + at, grad * z, inside)
    else:
        v = tl.load(saved + at, inside)
        d = tl.where(v <= 0, 0.0, grad) if cell == RNN_RELU else grad * (1 - v * v)
        tl.store(dx + at, d, inside)


class Cell:
    """A layer's cell on Triton, as recur() and recur_backward() call it."""

    def __init__(self, layer, training=True):
        self.layer, self.training = layer, training

    def kind(self, relu):
        return RNN_RELU if relu else KINDS[self.layer.name.removesuffix("_cell")]

    def forward(self, x, r, h, c, relu=False):
        rows, hidden = x.shape[0], x.shape[1] // self.layer.gates
        y = x.new_empty(rows, hidden)
        c_new = None if c is None else torch.empty_like(y)
        saved = x.new_empty(rows, self.layer.saved * hidden) if self.training else None
        if count := y.numel():
            x, r, h, c = _dense(x, r, h, c)
            grid = (triton.cdiv(count, BLOCK),)
            _cell_kernel[grid](x, r, h, c, y, c_new, saved, count, hidden, self.kind(relu), BLOCK)
        return y, c_new, saved

    def backward(self, saved, h, dh, dc, relu=False):
        rows, hidden = dh.shape
        kind = self.kind(relu)
        dx = dh.new_empty(rows, self.layer.gates * hidden)
        dr, dh_old = (torch.empty_like(dx), torch.empty_like(dh)) if kind == GRU else (dx, None)
        dc_old = None if dc is None else torch.empty_like(dh)
        if count := dh.numel():
            saved, h, dh, dc = _dense(saved, h, dh, dc)
            grid = (triton.cdiv(count, BLOCK),)
            _cell_backward_kernel[grid](
                saved, h, dh, dc, dx, dr, dh_old, dc_old, count, hidden, kind, BLOCK
            )
        return dx, dr, dh_old, dc_old


def _dense(*tensors):
    """cuBLAS adds up in other orders for other layouts."""
    return (t.contiguous() if isinstance(t, torch.Tensor) else t for t in tensors)


def _host_functions(layer):
    """The layer's loops around its cell, for each of its ops."""
    inference = f"{layer.name}_inference"
    backward = f"{layer.name}_backward"

    def run(*args):
        OPS[layer.name].fake(*args)  # for its checks
        return layer.run(Cell(layer).forward, [*_dense(*args)])

    def run_inference(*args):
        OPS[inference].fake(*args)
        *found, _ = layer.run(Cell(layer, training=False).forward, [*_dense(*args)])
        return tuple(found) if len(found) > 1 else found[0]

    def run_backward(*args):
        OPS[backward].fake(*args)
        args = [*_dense(*args)]
        return layer.run_gradient(Cell(layer).backward, args, args[-1])

    return {layer.name: run, inference: run_inference, backward: run_backward}


KERNELS = {
    name: host
    for layer in LAYERS
    if layer.name.removesuffix("_cell") in KINDS
    for name, host in _host_functions(layer).items()
}
