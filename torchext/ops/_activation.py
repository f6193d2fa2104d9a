"""The activations that ops fuse, by the numbers that csrc/common/activation.h gives them."""

import torch
from torch.nn import functional as F

DECOMPOSITIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "step": lambda x: torch.where(x > 0, torch.ones_like(x), torch.zeros_like(x)),
}
KINDS = {name: kind for kind, name in enumerate(DECOMPOSITIONS)}
_BY_KIND = tuple(DECOMPOSITIONS.values())


def activate(x, kind):
    return _BY_KIND[kind](x)


def gated(grad, y, kind):
    """grad times the activation's derivative, told from the activation's result."""
    if y is None or kind == KINDS["none"]:
        return grad
    if kind == KINDS["relu"]:
        return torch.where(y <= 0, 0, grad)
    if kind == KINDS["relu6"]:
        return torch.where((y <= 0) | (y >= 6), 0, grad)
    raise NotImplementedError(f"the derivative of activation {kind} from its result")


FUSED_IN_TRAINING = tuple(KINDS[name] for name in ("none", "relu", "relu6"))
