"""First weights by name."""

import torch
from torch import nn

# The standard deviation of a matrix's values, from how many inputs each output sums up (fan_in) and
# how many outputs each input goes into (fan_out).
_DEVIATIONS = {
    "zero": lambda fan_in, fan_out: 0.0,
    "small_random": lambda fan_in, fan_out: 0.01,
    "xavier": lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5,
    "he": lambda fan_in, fan_out: (2 / fan_in) ** 0.5,
}
_LAYERS = nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention


@torch.no_grad()
def initialise(model, how):
    """Gives a model new weights, in place, and returns it.

    zero                one layer learns from it; in more of them no gradient reaches the first
    small_random        normal, deviation 0.01: signals die in deep networks
    xavier              normal, keeps the variance of signals and of gradients where the activation
                        is about the identity: tanh (Glorot and Bengio, 2010)
    he                  normal, keeps the variance through relu, which halves it (He et al., 2015)
    zero_init_residual  every residual block starts as the identity (Goyal et al., 2017): zeroes its
                        last layer, which the block names in `residual_end`, and leaves the rest

    The first four set the matrices and filters of linear, convolutional, recurrent and attention
    layers, each gate and each projection as one of its own, and zero these layers' biases.
    Embeddings and norms stay as they are.
    """
    if how == "zero_init_residual":
        _zero_residual_ends(model)
        return model
    if how not in _DEVIATIONS:
        known = ", ".join([*_DEVIATIONS, "zero_init_residual"])
        raise ValueError(f"initialise: how: got {how!r}, expected one of {known}")
    for module in model.modules():
        if isinstance(module, _LAYERS):
            for name, parameter in module.named_parameters(recurse=False):
                if "bias" in name:
                    parameter.zero_()
                else:
                    for weight, *fans in _matrices(module, name, parameter):
                        weight.normal_(0, _DEVIATIONS[how](*fans))
    return model


def _zero_residual_ends(model):
    blocks = [block for block in model.modules() if getattr(block, "residual_end", None)]
    if not blocks:
        raise ValueError(
            f"initialise: model: got {type(model).__name__}, expected one with residual blocks"
        )
    for block in blocks:
        for parameter in block.get_submodule(block.residual_end).parameters():
            parameter.zero_()


def _matrices(module, name, weight):
    """(matrix, fan_in, fan_out) of each that is stored in this parameter."""
    if isinstance(module, nn.modules.conv._ConvNd):
        window = weight[0, 0].numel() / module.groups
        return [(weight, module.in_channels * window, module.out_channels * window)]
    parts = 1
    if name == "in_proj_weight":  # of queries, keys and values
        parts = 3
    elif name.startswith(("weight_ih", "weight_hh")):  # of gates
        parts = weight.shape[0] // module.hidden_size
    return [(matrix, matrix.shape[1], matrix.shape[0]) for matrix in weight.chunk(parts)]
