"""The Triton backend: each op's kernel and its host function, by the op's name in KERNELS."""

from . import (
    activation,
    adaptive_avg_pool2d,
    attention,
    avg_pool2d,
    binary_cross_entropy,
    channel_norm,
    conv2d,
    conv2d_backward_weight,
    conv_bn_act,
    conv_transpose2d,
    cross_entropy,
    depthwise_separable,
    dropout,
    layer_norm,
    linear,
    local_response_norm,
    max_pool2d,
    recurrent,
    softmax,
)

_FILES = (
    activation,
    adaptive_avg_pool2d,
    attention,
    avg_pool2d,
    binary_cross_entropy,
    channel_norm,
    conv2d,
    conv2d_backward_weight,
    conv_bn_act,
    conv_transpose2d,
    cross_entropy,
    depthwise_separable,
    dropout,
    layer_norm,
    linear,
    local_response_norm,
    max_pool2d,
    recurrent,
    softmax,
)
KERNELS = {op: function for file in _FILES for op, function in file.KERNELS.items()}

__all__ = ["KERNELS"]
