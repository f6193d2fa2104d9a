"""Where PyTorch's own ops were measured to be faster, as torchext.explain tells it.

Each function takes an op's arguments and gives the reason, or "". The measurements are in NOTES.md.
"""

import functools

import torch

# Elements whose pass takes about as long as what a call costs more.
_SMALL, _SMALL_IN_TRAINING = 2**16, 2**18


@functools.cache
def _cpu_multiplies_bf16():
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def product(x, *_):
    """Of convolutions and linear layers."""
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and _cpu_multiplies_bf16():
        return "bfloat16 is multiplied in float32 here, by the CPU's bfloat16 products there"
    return ""


def small(x, *_):
    """Of norms and softmax."""
    if x.device.type == "cpu" and x.numel() < _SMALL:
        return f"a small tensor ({x.numel()} elements): a call through Python costs 2 to 5 us more"
    return ""


def small_training(x, *_):
    """The same in training."""
    if x.device.type == "cpu" and x.numel() < _SMALL_IN_TRAINING:
        return f"a small tensor ({x.numel()} elements): autograd in Python costs 20 to 30 us more"
    return ""
