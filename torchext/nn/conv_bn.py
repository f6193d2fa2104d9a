"""Convolution, batch norm and activation as one module, and MobileNet's two of them as one."""

from torch import nn

from . import functional as F
from .normalisation import statistics_for


def _same_padding(kernel_size, dilation):
    """What keeps the size of an image that an odd kernel of stride 1 goes over."""
    kernel_size, dilation = (F._two(value) for value in (kernel_size, dilation))
    return tuple((k - 1) // 2 * d for k, d in zip(kernel_size, dilation, strict=True))


def _conv_bn_act(input, residual, tensors, settings):
    weight, bias, bn_weight, bn_bias, *statistics = tensors
    *mode, eps, stride, padding, dilation, groups, activation = settings
    mean, var, training, momentum = statistics_for(*statistics, *mode)
    norm = (mean, var, bn_weight, bn_bias)
    settings = (training, momentum, eps, stride, padding, dilation, groups, activation)
    return F.conv_bn_act(input, weight, bias, *norm, residual, *settings)


def _depthwise_separable(input, residual, depthwise, pointwise):
    by_batch = any(
        settings[0] or tensors[4] is None for tensors, settings in (depthwise, pointwise)
    )
    if by_batch or F._needs_grad(input, residual, *depthwise[0][:4], *pointwise[0][:4]):
        # The batch's statistics, and gradients, need what lies in between as a whole.
        return _conv_bn_act(_conv_bn_act(input, None, *depthwise), residual, *pointwise)
    (weight, _, *norm), (*_, eps, stride, padding, dilation, _, activation) = depthwise
    (pointwise_weight, _, *pointwise_norm), settings = pointwise
    return F.depthwise_separable(
        *(input, weight, (*norm[:4], eps)),
        *(pointwise_weight, (*pointwise_norm[:4], settings[3]), residual),
        *(stride, padding, dilation, activation, settings[-1]),
    )


class ConvBNAct(nn.Module):
    """activation(bn(conv(input)) + residual), as one op; conv and bn are torch.nn's, and so is the
    state dict: conv.weight, conv.bias, bn.weight, bn.bias, bn.running_mean and so on.

    padding     None: (kernel_size - 1) // 2 * dilation
    activation  "relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "gelu_tanh", "sigmoid",
                "tanh", "hardswish", "hardsigmoid" or None
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=None,
        groups=1,
        dilation=1,
        activation="relu",
        eps=1e-5,
        momentum=0.1,
        track_running_stats=True,
        bias=False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        padding = _same_padding(kernel_size, dilation) if padding is None else padding
        window = (kernel_size, stride, padding, dilation)
        self.conv = nn.Conv2d(in_channels, out_channels, *window, groups, bias, **where)
        self.bn = nn.BatchNorm2d(out_channels, eps, momentum, True, track_running_stats, **where)
        self.activation = F.check_activation(activation)

    def forward(self, input, residual=None):
        self.bn._check_input_dim(input)
        return _conv_bn_act(input, residual, *self._operands())

    def _operands(self):
        """(tensors, settings) of _conv_bn_act"""
        conv, bn = self.conv, self.bn
        statistics = (bn.running_mean, bn.running_var, bn.num_batches_tracked)
        mode = (bn.training, bn.track_running_stats, bn.momentum, bn.eps)
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        tensors = (conv.weight, conv.bias, bn.weight, bn.bias, *statistics)
        return tensors, (*mode, *geometry, self.activation)

    def extra_repr(self):
        return f"activation={self.activation}"


class DepthwiseSeparable(nn.Module):
    """pointwise(depthwise(input), residual), two ConvBNAct; in inference one op, and what lies
    between them is never stored. Its state dict is depthwise.conv.weight and so on.

    activation  of both, or a pair: ("relu6", None) makes MobileNetV2's linear bottleneck
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size=3,
        stride=1,
        padding=None,
        dilation=1,
        activation="relu",
        eps=1e-5,
        momentum=0.1,
        track_running_stats=True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        pair = isinstance(activation, (tuple, list))
        first, second = activation if pair else (activation, activation)
        rest = {"eps": eps, "momentum": momentum, "track_running_stats": track_running_stats}
        rest |= {"device": device, "dtype": dtype}
        window = (kernel_size, stride, padding, in_channels, dilation)
        self.depthwise = ConvBNAct(in_channels, in_channels, *window, activation=first, **rest)
        self.pointwise = ConvBNAct(in_channels, out_channels, 1, activation=second, **rest)

    def forward(self, input, residual=None):
        self.depthwise.bn._check_input_dim(input)
        operands = self.depthwise._operands(), self.pointwise._operands()
        return _depthwise_separable(input, residual, *operands)
