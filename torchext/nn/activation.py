"""Activation modules, softmax and dropout."""

from torch import nn

from . import functional as F


class ReLU(nn.ReLU):
    def forward(self, input):
        return F.relu(input, self.inplace)


class ReLU6(nn.ReLU6):
    def forward(self, input):
        return F.relu6(input, self.inplace)


class LeakyReLU(nn.LeakyReLU):
    def forward(self, input):
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class ELU(nn.ELU):
    def forward(self, input):
        return F.elu(input, self.alpha, self.inplace)


class SiLU(nn.SiLU):
    def forward(self, input):
        return F.silu(input, self.inplace)


class GELU(nn.GELU):
    def forward(self, input):
        return F.gelu(input, self.approximate)


class Sigmoid(nn.Sigmoid):
    def forward(self, input):
        return F.sigmoid(input)


class Tanh(nn.Tanh):
    def forward(self, input):
        return F.tanh(input)


class Hardswish(nn.Hardswish):
    def forward(self, input):
        return F.hardswish(input, self.inplace)


class Hardsigmoid(nn.Hardsigmoid):
    def forward(self, input):
        return F.hardsigmoid(input, self.inplace)


class Softmax(nn.Softmax):
    def forward(self, input):
        return F.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(nn.LogSoftmax):
    def forward(self, input):
        return F.log_softmax(input, self.dim, _stacklevel=5)


class Dropout(nn.Dropout):
    def forward(self, input):
        return F.dropout(input, self.p, self.training, self.inplace)
