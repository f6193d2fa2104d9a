"""Recurrent modules."""

from types import FunctionType

from torch import nn

from . import functional


def _on_our_kernels(forward):
    """torch's own forward, with its checks and words, but calling our functions for its _VF's."""
    names = {**forward.__globals__, "_VF": functional}
    del names["__name__"]  # of a module whose globals these are not: Dynamo would look there
    return FunctionType(forward.__code__, names, "forward", forward.__defaults__)


class LSTM(nn.LSTM):
    forward = _on_our_kernels(nn.LSTM.forward)


class GRU(nn.GRU):
    forward = _on_our_kernels(nn.GRU.forward)


class RNN(nn.RNN):
    forward = _on_our_kernels(nn.RNN.forward)


class LSTMCell(nn.LSTMCell):
    forward = _on_our_kernels(nn.LSTMCell.forward)


class GRUCell(nn.GRUCell):
    forward = _on_our_kernels(nn.GRUCell.forward)


class RNNCell(nn.RNNCell):
    forward = _on_our_kernels(nn.RNNCell.forward)
