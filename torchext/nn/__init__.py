"""Drop-in modules: subclasses of torch.nn's, with the same constructors and state dicts."""

from . import functional
from .convolution import Conv1d, Conv2d, ConvTranspose2d
from .linear import Linear
from .pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Linear",
    "MaxPool2d",
    "functional",
]
