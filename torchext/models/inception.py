"""GoogLeNet's module (Szegedy et al., 2014): filters of several sizes side by side, and the naive
form that it makes affordable. Without batch norm, as published; `googlenet` is torchvision's."""

import torch
from torch import nn

from .. import nn as tn


def _conv(channels, out, kernel):
    conv = tn.Conv2d(channels, out, kernel, padding=kernel // 2)
    return nn.Sequential(conv, tn.ReLU(inplace=True))


class _SideBySide(nn.Module):
    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


class InceptionNaive(_SideBySide):
    """Each size of filter sees all channels, and pooling passes all of them on."""

    def __init__(self, in_channels, ch1x1, ch3x3, ch5x5):
        super().__init__()
        self.branch1 = _conv(in_channels, ch1x1, 1)
        self.branch2 = _conv(in_channels, ch3x3, 3)
        self.branch3 = _conv(in_channels, ch5x5, 5)
        self.branch4 = tn.MaxPool2d(3, stride=1, padding=1)


class Inception(_SideBySide):
    """Costly filters see few channels, ch3x3red and ch5x5red, that a 1 x 1 makes of all."""

    def __init__(self, in_channels, ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj):
        super().__init__()
        self.branch1 = _conv(in_channels, ch1x1, 1)
        self.branch2 = nn.Sequential(_conv(in_channels, ch3x3red, 1), _conv(ch3x3red, ch3x3, 3))
        self.branch3 = nn.Sequential(_conv(in_channels, ch5x5red, 1), _conv(ch5x5red, ch5x5, 5))
        pool = tn.MaxPool2d(3, stride=1, padding=1)
        self.branch4 = nn.Sequential(pool, _conv(in_channels, pool_proj, 1))
