"""The ops: one file each. `OPS` lists them all by name."""

from . import (
    _triton,
    activation,
    adaptive_avg_pool2d,
    attention,
    attention_qkv,
    avg_pool2d,
    batch_norm,
    binary_cross_entropy,
    conv2d,
    conv_transpose2d,
    cross_entropy,
    dropout,
    group_norm,
    layer_norm,
    linear,
    local_response_norm,
    max_pool2d,
    softmax,
    window_attention,
)
from ._op import OPS, Op

_triton.register_for_cuda()

__all__ = [
    "OPS",
    "Op",
    "activation",
    "adaptive_avg_pool2d",
    "attention",
    "attention_qkv",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "group_norm",
    "layer_norm",
    "linear",
    "local_response_norm",
    "max_pool2d",
    "softmax",
    "window_attention",
]
