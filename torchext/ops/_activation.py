"""The activations that ops fuse, by the numbers that csrc/common/activation.h gives them."""

import torch
from torch.nn import functional as F

from ._op import check

aten = torch.ops.aten

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

# Whose gradient is told from the result: cheaper than from the input.
FROM_RESULT = (KINDS["sigmoid"], KINDS["tanh"])

# Not all are ATen's own: some of those can't be differentiated again, round 1/6 to float even in
# float64, or treat NaN by its place in a vector.
_BACKWARD = (
    lambda g, x: aten.clone(g),
    lambda g, x: aten.threshold_backward(g, x, 0),
    lambda g, x: torch.where((x > 0) & (x < 6), g, 0.0),
    lambda g, x: aten.leaky_relu_backward(g, x, 0.01, False),
    lambda g, x: g * x.clamp(max=0).exp(),
    lambda g, x: g * torch.sigmoid(x) * (1 + x * (1 - torch.sigmoid(x))),
    aten.gelu_backward,
    lambda g, x: aten.gelu_backward(g, x, approximate="tanh"),
    aten.sigmoid_backward,
    aten.tanh_backward,
    lambda g, x: torch.where(x <= -3, 0.0, torch.where(x >= 3, g, g * (x / 3 + 0.5))),
    lambda g, x: torch.where((x > -3) & (x < 3), g / 6, 0.0),
    lambda g, x: torch.where(x != x, 0.0, aten.hardtanh_backward(g, x, 0.0, 0.0)),  # zeros
)


def check_kind(op, kind):
    check(0 <= kind < len(KINDS), op, "kind", kind, f"0 to {len(KINDS) - 1}")


def activate(x, kind):
    return _BY_KIND[kind](x)


def activate_backward(grad_y, x, kind):
    """grad_y times the activation's derivative at x: its result if FROM_RESULT, else its input."""
    return _BACKWARD[kind](grad_y, x)


def derivative_argument(x, kind):
    """What activate_backward wants to know, from the activation's input."""
    return activate(x, kind) if kind in FROM_RESULT else x


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
