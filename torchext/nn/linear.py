"""The linear layer."""

from torch import nn

from . import functional as F


class Linear(nn.Linear):
    def forward(self, input):
        return F.linear(input, self.weight, self.bias)
