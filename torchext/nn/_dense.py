"""Activations, normalisation, softmax and losses; functional.py shows them to the world."""

import math

import torch
import torch.nn.functional as F
from torch.nn import _reduction

from .._fallback import notice
from ..ops import activation as _activation
from ..ops import batch_norm as _batch_norm
from ..ops import binary_cross_entropy as _binary_cross_entropy
from ..ops import cross_entropy as _cross_entropy
from ..ops import dropout as _dropout
from ..ops import group_norm as _group_norm
from ..ops import layer_norm as _layer_norm
from ..ops import local_response_norm as _local_response_norm
from ..ops import softmax as _softmax
from ..ops._activation import KINDS
from ..ops._op import needs_grad as _needs_grad


def _activate(name, input):
    if _needs_grad(input):
        return _activation.activation(input, KINDS[name])
    return _activation.activation_inference(input, KINDS[name])


def relu(input, inplace=False):
    return F.relu(input, True) if inplace else _activate("relu", input)


def relu6(input, inplace=False):
    return F.relu6(input, True) if inplace else _activate("relu6", input)


def leaky_relu(input, negative_slope=0.01, inplace=False):
    if inplace or negative_slope != 0.01:
        if not inplace:
            notice("activation", "leaky_relu has a kernel for negative_slope 0.01")
        return F.leaky_relu(input, negative_slope, inplace)
    return _activate("leaky_relu", input)


def elu(input, alpha=1.0, inplace=False):
    if inplace or alpha != 1:
        if not inplace:
            notice("activation", "elu has a kernel for alpha 1")
        return F.elu(input, alpha, inplace)
    return _activate("elu", input)


def silu(input, inplace=False):
    return F.silu(input, True) if inplace else _activate("silu", input)


def gelu(input, approximate="none"):
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate: got {approximate!r}, expected 'none' or 'tanh'")
    return _activate("gelu" if approximate == "none" else "gelu_tanh", input)


def sigmoid(input):
    return _activate("sigmoid", input)


def tanh(input):
    return _activate("tanh", input)


def hardswish(input, inplace=False):
    return F.hardswish(input, True) if inplace else _activate("hardswish", input)


def hardsigmoid(input, inplace=False):
    return F.hardsigmoid(input, True) if inplace else _activate("hardsigmoid", input)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    shape = list(normalized_shape)
    if not shape or list(input.shape[-len(shape) :]) != shape:
        raise RuntimeError(
            f"layer_norm: normalized_shape: got {shape}, expected the last sizes of "
            f"{list(input.shape)}"
        )
    arguments = (input, math.prod(shape), weight, bias, eps)
    if _needs_grad(input, weight, bias):
        return _layer_norm.layer_norm(*arguments)[0]
    return _layer_norm.layer_norm_inference(*arguments)


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    if _needs_grad(input, weight, bias):
        return _group_norm.group_norm(input, num_groups, weight, bias, eps)[0]
    return _group_norm.group_norm_inference(input, num_groups, weight, bias, eps)


def batch_norm(
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
):
    if training:
        F._verify_batch_size(input.size())
    arguments = (input, weight, bias, running_mean, running_var, training, momentum, eps)
    updates = training and running_mean is not None
    if not updates and not _needs_grad(input, weight, bias):
        return _batch_norm.batch_norm_inference(*arguments)
    y, _, _, new_mean, new_var = _batch_norm.batch_norm(*arguments)
    if updates and input.shape[0] > 0:
        running_mean.copy_(new_mean)
        running_var.copy_(new_var)
    return y


def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    if _needs_grad(input):
        return _local_response_norm.local_response_norm(input, size, alpha, beta, k)[0]
    return _local_response_norm.local_response_norm_inference(input, size, alpha, beta, k)


def _soft(input, dim, dtype, log):
    input = input if dtype is None else input.to(dtype)
    op = _softmax.softmax if _needs_grad(input) else _softmax.softmax_inference
    return op(input, dim, log)


def softmax(input, dim=None, _stacklevel=3, dtype=None):
    if dim is None:  # torch chooses one, and warns
        dim = F._get_softmax_dim("softmax", input.dim(), _stacklevel)
    return _soft(input, dim, dtype, False)


def log_softmax(input, dim=None, _stacklevel=3, dtype=None):
    if dim is None:
        dim = F._get_softmax_dim("log_softmax", input.dim(), _stacklevel)
    return _soft(input, dim, dtype, True)


def cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if _needs_grad(target, weight):
        notice("cross_entropy", "no kernel gives gradients of targets or weights")
        return F.cross_entropy(
            input,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    if reduction not in _cross_entropy.REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    code = _cross_entropy.REDUCTIONS.index(reduction)
    arguments = (input, target, weight, code, ignore_index, label_smoothing)
    if _needs_grad(input):
        return _cross_entropy.cross_entropy(*arguments)[0]
    return _cross_entropy.cross_entropy_inference(*arguments)


def _reduced(loss, reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


def _binary(name, input, target, weight, pos_weight, reduction):
    """The loss by a kernel; by torch where it must give other gradients or promote types."""
    tensors = [t for t in (target, weight, pos_weight) if t is not None]
    logits = name.endswith("logits")
    if target.shape != input.shape or any(t.dtype != input.dtype for t in tensors):
        why = "target, weight and pos_weight are not all like the input"
    elif _needs_grad(*tensors):
        why = "no kernel gives gradients of targets or weights"
    else:
        weight, pos_weight = (
            None if t is None else t.expand(input.shape) for t in (weight, pos_weight)
        )
        op = _binary_cross_entropy.binary_cross_entropy_inference
        if _needs_grad(input):
            op = _binary_cross_entropy.binary_cross_entropy
        return _reduced(op(input, target, weight, pos_weight, logits), reduction)
    notice("binary_cross_entropy", why)
    extra = {"pos_weight": pos_weight} if logits else {}
    return getattr(F, name)(input, target, weight, reduction=reduction, **extra)


def binary_cross_entropy(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean"
):
    """As torch's, but a probability outside 0 to 1 gives NaN instead of an error."""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    return _binary("binary_cross_entropy", input, target, weight, None, reduction)


def binary_cross_entropy_with_logits(
    input,
    target,
    weight=None,
    size_average=None,
    reduce=None,
    reduction="mean",
    pos_weight=None,
):
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    name = "binary_cross_entropy_with_logits"
    return _binary(name, input, target, weight, pos_weight, reduction)


def new_seed():
    """From torch's generator of the CPU: torch.manual_seed repeats it."""
    return torch.empty((), dtype=torch.int64).random_().item()


def dropout(input, p=0.5, training=True, inplace=False):
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if inplace or not training or p == 0 or torch.compiler.is_compiling():
        return F.dropout(input, p, training, inplace)  # a compiled graph draws its own numbers
    op = _dropout.dropout if _needs_grad(input) else _dropout.dropout_inference
    return op(input, p, new_seed(), True)
