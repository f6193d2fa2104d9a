"""Your own model, faster: `accelerate(model)` and what goes with it."""

import copy

import torch
from torch import nn

from ._forward import Accelerated
from ._stand_in import StandIn
from ._training import for_training
from ._use import use as use

MODES = ("inference", "training")
PRECISIONS = ("fast", "strict")


def accelerate(model, example=None, mode="inference", dtype=None, strict=False, precision="fast"):
    """A copy of the model that computes the same, faster; its parameters are the model's own.

    example  the call's arguments (a tensor, or a tuple of them, or a dict of keyword arguments), to
             prepare and verify at once; without, that happens at the first call of each shape
    mode     "inference": in eval mode the whole model runs as fused kernels, with weights prepared
             once; "training": its layers run torchext's kernels, forward and backward
    dtype    to compute in, torch.bfloat16 say; inputs and outputs keep theirs
    strict   raise an error where the model would run by itself
    precision  "fast": where it is faster, 3 x 3 convolutions by Winograd's method, whose rounding
             errors are a few times those of direct sums; "strict": direct sums only

    `print(model.torchext_report)` tells what runs where, and why not more; `restore` gives the
    original back, `refresh` follows changes of weights that PyTorch does not see (`.data`,
    numpy) and of other attributes of modules.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model: got {type(model).__name__}, expected an nn.Module")
    if mode not in MODES:
        raise ValueError(f"accelerate: mode: got {mode!r}, expected one of {MODES}")
    if precision not in PRECISIONS:
        raise ValueError(f"accelerate: precision: got {precision!r}, expected one of {PRECISIONS}")
    if isinstance(model.__dict__.get("forward"), StandIn):
        model = restore(model)
    fast, arguments = _twin(model), None if example is None else _arguments(example)
    if mode == "training":
        if dtype is not None:
            raise ValueError(f"accelerate: dtype: got {dtype}, expected None: use torch.autocast")
        return for_training(fast, model, arguments)
    fast.__dict__["forward"] = Accelerated(fast, model, dtype, strict, precision)
    if any(module.training for module in model.modules()):
        fast.torchext_report.note("in training mode it runs by itself: call eval()")
    elif arguments is not None:
        args, kwargs = arguments
        with torch.no_grad():
            fast(*args, **kwargs)
    return fast


def restore(model):
    """The original of an accelerated model."""
    return _forward_of("restore", model).source


def refresh(model):
    """Prepares the weights of an accelerated model anew."""
    _forward_of("refresh", model).refresh()


def _forward_of(function, model):
    forward = model.__dict__.get("forward") if isinstance(model, nn.Module) else None
    if not isinstance(forward, StandIn):
        raise TypeError(
            f"{function}: model: got {type(model).__name__}, expected one that accelerate made"
        )
    return forward


def _arguments(example):
    if isinstance(example, dict):
        return (), example
    return (example if isinstance(example, tuple) else (example,)), {}


def _twin(model):
    """A copy of the modules with the same tensors and hooks."""
    memo = {}
    for module in model.modules():
        held = (*module._parameters.values(), *module._buffers.values())
        hooks = (
            h for name in vars(module) if name.endswith("_hooks") for h in _values(module, name)
        )
        for kept in (*held, *hooks):
            memo[id(kept)] = kept
    return copy.deepcopy(model, memo)


def _values(module, name):
    hooks = getattr(module, name)
    return hooks.values() if isinstance(hooks, dict) else ()
