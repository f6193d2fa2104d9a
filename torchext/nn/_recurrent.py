"""torch.lstm and the like: layers, directions and dropout around ops that do one direction of one
layer. Functions of sequences have torch's two signatures:
  (input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
  (data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional)
"""

import torch
import torch.nn.functional as F

from ..ops import gru as _gru
from ..ops import lstm as _lstm
from ..ops import rnn as _rnn
from ..ops._op import needs_grad as _needs_grad
from ..ops._recurrent import steps_of


def lstm(input, *args):
    return _sequence(_lstm.lstm, _lstm.lstm_inference, (), input, *args)


def gru(input, *args):
    return _sequence(_gru.gru, _gru.gru_inference, (), input, *args)


def rnn_tanh(input, *args):
    return _sequence(_rnn.rnn, _rnn.rnn_inference, (False,), input, *args)


def rnn_relu(input, *args):
    return _sequence(_rnn.rnn, _rnn.rnn_inference, (True,), input, *args)


def lstm_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    args = (input, *hx, w_ih, w_hh, b_ih, b_hh)
    return _lstm.lstm_cell(*args)[:2] if _needs_grad(*args) else _lstm.lstm_cell_inference(*args)


def gru_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    args = (input, hx, w_ih, w_hh, b_ih, b_hh)
    return _gru.gru_cell(*args)[0] if _needs_grad(*args) else _gru.gru_cell_inference(*args)


def _rnn_cell(relu, *args):
    if _needs_grad(*args):
        return _rnn.rnn_cell(*args, relu)[0]
    return _rnn.rnn_cell_inference(*args, relu)


def rnn_tanh_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    return _rnn_cell(False, input, hx, w_ih, w_hh, b_ih, b_hh)


def rnn_relu_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    return _rnn_cell(True, input, hx, w_ih, w_hh, b_ih, b_hh)


def _sequence(op, inference, options, input, *args):
    """Any of them: hx and what it returns are (h, c) of an LSTM."""
    if isinstance(args[2], bool):
        hx, params, has_biases, layers, dropout, train, bidirectional, batch_first = args
        batch_sizes = []
    else:
        batch_sizes, hx, params, has_biases, layers, dropout, train, bidirectional = args
        batch_sizes, batch_first = batch_sizes.tolist(), False
    if not batch_sizes and input.dim() == 3 and input.shape[1 if batch_first else 0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    states = [hx] if isinstance(hx, torch.Tensor) else hx
    directions = 2 if bidirectional else 1
    each = len(params) // (layers * directions)  # w_ih, w_hh, then biases, then a projection

    def run(x, k):
        """(y, final states...) of the k-th direction, counted over all layers."""
        weights = [*params[k * each : (k + 1) * each]]
        projection = weights.pop() if each in (3, 5) else None
        if not has_biases:
            weights += [None, None]
        now, reverse = [state[k] for state in states], k % directions > 0
        if projection is not None:
            return _projected(x, *now, weights, projection, batch_sizes, reverse)
        given = (x, *now, *weights, batch_sizes, reverse, *options)
        # What the gradient needs comes last.
        return op(*given)[:-1] if _needs_grad(*given) else inference(*given)

    x, finals = input.transpose(0, 1) if batch_first else input, []
    for first in range(0, layers * directions, directions):
        if first and dropout and train:
            x = F.dropout(x, dropout)
        ys, *last = zip(*(run(x, k) for k in range(first, first + directions)), strict=True)
        x = torch.cat(ys, -1) if bidirectional else ys[0]
        finals.append(last)
    y = x.transpose(0, 1) if batch_first else x
    return y, *(torch.stack(sum(each, ())) for each in zip(*finals, strict=True))


def _projected(x, h, c, weights, projection, batch_sizes, reverse):
    """An LSTM whose hidden state is projected, step by step."""
    order = -1 if reverse else 1
    needs_grad = _needs_grad(x, h, c, *weights, projection)
    cell = _lstm.lstm_cell if needs_grad else _lstm.lstm_cell_inference
    ys = []
    for step in steps_of(x, batch_sizes)[::order]:
        n = step.shape[0]
        y, c_new, *_ = cell(step, h[:n], c[:n], *weights)
        y = F.linear(y, projection)
        h, c = torch.cat([y, h[n:]]), torch.cat([c_new, c[n:]])
        ys.append(y)
    return (torch.cat if batch_sizes else torch.stack)(ys[::order]), h, c
