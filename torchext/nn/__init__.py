"""Drop-in modules: subclasses of torch.nn's, with the same constructors and state dicts."""

from . import functional
from ._whole import keep_whole
from .activation import (
    ELU,
    GELU,
    Dropout,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from .attention import MultiheadAttention, WindowAttention
from .conv_bn import ConvBNAct, DepthwiseSeparable
from .convolution import Conv1d, Conv2d, ConvTranspose2d
from .linear import Linear
from .loss import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss
from .normalisation import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from .pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from .recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "ConvBNAct",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "DepthwiseSeparable",
    "Dropout",
    "GRUCell",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LogSoftmax",
    "MaxPool2d",
    "MultiheadAttention",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "WindowAttention",
    "functional",
]

for _name in __all__:
    if _name != "functional":
        keep_whole(globals()[_name])
