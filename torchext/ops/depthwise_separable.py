"""depthwise_separable: a depthwise convolution, batch norm and activation, then a pointwise
convolution, batch norm, residual and activation: MobileNet's block.

An op for inference only: what lies between the two convolutions never exists as a whole. Training
needs it whole, for its batch statistics: there the module calls conv_bn_act twice.
"""

import torch

from ._activation import KINDS
from ._conv2d import (
    check_companion,
    check_operands,
    check_shape,
    empty_image,
    output_is_channels_last,
    output_shape,
)
from ._dense import check_weight
from ._op import Op, check
from ._packed import check_panels, unpack
from ._pool2d import is_channels_last
from .conv2d import conv2d
from .conv_bn_act import conv_bn_act_inference


def _depthwise_separable(x, weight, *args):
    *norm, eps, pointwise, gamma, beta, mean, var, pointwise_eps, residual = args[:12]
    stride, padding, dilation, activation, pointwise_activation = args[12:]
    block = conv_bn_act_inference.decomposition
    rest = (stride, padding, dilation, x.shape[1], activation)
    x = block(x, weight, None, *norm, None, False, 0.0, eps, *rest)
    rest = ([1, 1], [0, 0], [1, 1], 1, pointwise_activation)
    norm = (gamma, beta, mean, var)
    return block(x, pointwise, None, *norm, residual, False, 0.0, pointwise_eps, *rest)


def _packed(x, weight, *args):
    panels, out_channels = args[5:7]
    pointwise = unpack(panels, (out_channels, x.shape[1], 1, 1), 1, x.dtype)
    y = _depthwise_separable(x, weight, *args[:5], pointwise, *args[7:])
    return y.contiguous(memory_format=torch.channels_last)


def _fake(x, weight, *args):
    op = "depthwise_separable_inference"
    shape = _between(op, x, weight, *args[12:])
    pointwise = args[5]
    check_companion(op, "pointwise_weight", pointwise, x)
    sizes, channels = pointwise.shape, _channels(weight)
    fits = len(sizes) == 4 and sizes[0] > 0 and sizes[1:] == (channels, 1, 1)
    check(fits, op, "pointwise_weight", f"shape {list(sizes)}", f"(O, {channels}, 1, 1)")
    channels_last = output_is_channels_last(x, weight) or is_channels_last(pointwise)
    return _result(op, x, shape, channels_last, *args[:4], sizes[0], *args[6:12])


def _fake_packed(x, weight, *args):
    op = "depthwise_separable_packed_inference"
    panels, out_channels = args[5:7]
    shape = _between(op, x, weight, *args[13:])
    check(out_channels > 0, op, "out_channels", out_channels, "at least 1")
    check_panels(op, panels, x, (out_channels, _channels(weight), 1, 1), 1)
    return _result(op, x, shape, True, *args[:4], out_channels, *args[7:13])


def _channels(weight):
    return max(weight.shape[0], 1) if weight.dim() == 4 else 1


def _between(op, x, weight, stride, padding, dilation, *activations):
    """The shape of what the depthwise convolution gives."""
    check_operands(op, x, weight)
    geometry = (stride, padding, dilation, _channels(weight))
    shape = output_shape(op, x.shape, weight.shape, *geometry)
    for name, kind in zip(("activation", "pointwise_activation"), activations, strict=True):
        check(0 <= kind < len(KINDS), op, name, kind, "one of torchext.ops._activation")
    check(x.dim() == 4, op, "input", f"{x.dim()} dimensions", "4 (N, C, H, W)")
    return shape


def _result(op, x, shape, channels_last, gamma, beta, mean, var, out_channels, *args):
    *pointwise_norm, _, residual = args
    norm = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
    for (name, vector), of_pointwise in zip(norm.items(), pointwise_norm, strict=True):
        check_weight(op, name, x, vector, shape[1])
        check_weight(op, f"pointwise_{name}", x, of_pointwise, out_channels)
    shape = [shape[0], out_channels, *shape[2:]]
    if residual is not None:
        check_companion(op, "residual", residual, x)
        check_shape(op, "residual", residual.shape, shape)
    return empty_image(x, shape, channels_last)


def _flops(x, weight, gamma, beta, mean, var, eps, pointwise, *args):
    stride, padding, dilation = args[6:9]
    rest = ([1, 1], [0, 0], [1, 1], 1, 0)
    between = output_shape("", x, weight, stride, padding, dilation, x[1])
    depthwise = conv2d.flops(x, weight, None, None, stride, padding, dilation, x[1], 0)
    return depthwise + conv2d.flops(between, pointwise, None, None, *rest)


depthwise_separable_inference = Op(
    name="depthwise_separable_inference",
    decomposition=_depthwise_separable,
    fake=_fake,
    autocast=("input", "weight", "pointwise_weight", "residual"),
    batched=("input", "residual"),
    flops=_flops,
)
depthwise_separable_packed_inference = Op(
    name="depthwise_separable_packed_inference",
    decomposition=_packed,
    fake=_fake_packed,
    constants=("panels",),
    batched=("input", "residual"),
    flops=lambda *args: _flops(*args[:7], (args[8], args[0][1], 1, 1), *args[9:]),
)
