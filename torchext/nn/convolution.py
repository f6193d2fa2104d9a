"""Convolution modules."""

from torch import nn

from . import functional as F


def _padded(module, input):
    """(input, the padding left to do): torch's other padding modes pad first."""
    if module.padding_mode == "zeros":
        return input, module.padding
    pads = module._reversed_padding_repeated_twice
    return nn.functional.pad(input, pads, mode=module.padding_mode), 0


class Conv1d(nn.Conv1d):
    def _conv_forward(self, input, weight, bias):
        input, padding = _padded(self, input)
        return F.conv1d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        input, padding = _padded(self, input)
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, input, output_size=None):
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        return F.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )
