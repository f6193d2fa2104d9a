"""oneDNN's convolutions and products with weights reordered once, as torch.compile's freezing uses
them: the strongest that PyTorch itself has on a CPU, and so a candidate at every place."""

import torch

from ._places import Candidate, Chain, channels_last, finish

ops = torch.ops.mkldnn
_NAME = "oneDNN, weights reordered"

# Activations that oneDNN fuses: its name, numbers and algorithm.
_FUSED = {
    "none": ("none", [], ""),
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "leaky_relu": ("leaky_relu", [0.01], ""),
    "sigmoid": ("sigmoid", [], ""),
    "tanh": ("tanh", [], ""),
    "hardswish": ("hardswish", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
}


def _serves(x):
    if not torch.backends.mkldnn.is_available() or x.device.type != "cpu":
        return False
    if x.dtype == torch.bfloat16:
        return ops._is_mkldnn_bf16_supported()
    if x.dtype == torch.float16:
        return ops._is_mkldnn_fp16_supported()
    return x.dtype == torch.float32


def _finished(product, residual, activation):
    """`product` takes what oneDNN is to do at once; the rest is done behind it."""
    at_once = _FUSED.get(activation) if residual is None else None
    y = product(*(at_once or _FUSED["none"]))
    return y if at_once else finish(y, residual, activation)


def _conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    arguments = (channels_last(x), weight, bias, padding, stride, dilation, groups)

    def product(*fused):
        return ops._convolution_pointwise.default(*arguments, *fused)

    return _finished(product, residual, activation)


def _linear(x, weight, bias, residual, activation):
    def product(*fused):
        return ops._linear_pointwise.default(x, weight, bias, *fused)

    return _finished(product, residual, activation)


def _reordered(weight, stride, padding, dilation, groups, input_size):
    return ops._reorder_convolution_weight(
        weight.contiguous(), padding, stride, dilation, groups, input_size
    )


def _reordered_matrix(weight, rows):
    return ops._reorder_linear_weight(weight.contiguous(), rows)


def conv2d(build, plain, input_size):
    """The candidate for `plain`, an ATen convolution's arguments; none where oneDNN has none."""
    x, weight, *rest = plain
    if not _serves(x.meta["val"]) or len(input_size) != 4:
        return []
    weight = build(_reordered, weight, *rest[2:6], input_size)
    return [Candidate(_NAME, _conv2d, (x, weight, *rest))]


def linear(build, plain, rows):
    x, weight, *rest = plain
    if not _serves(x.meta["val"]):
        return []
    return [Candidate(_NAME, _linear, (x, build(_reordered_matrix, weight, rows), *rest))]


def two_convolutions(build, plain, sizes):
    """The same for a chain of two, with the sizes of both inputs."""
    count, (x, *args) = plain.target.count, plain.args
    if not _serves(x.meta["val"]):
        return []
    both = [
        (build(_reordered, weight, *rest[2:6], size), *rest)
        for (weight, *rest), size in zip((args[:count], args[count:]), sizes, strict=True)
    ]
    return [Candidate(_NAME, Chain(_conv2d, _conv2d, count), (x, *both[0], *both[1]))]
