"""The model that a command's arguments name: its sizes, its weights and its input."""

import contextlib
import copy
import sys
from pathlib import Path

import torch
from torch import nn

from . import models
from ._command import Misuse, first_line
from ._layers import trace


def skeleton(name, **config):
    """The model without numbers, on the meta device: its sizes are known at once."""
    with torch.device("meta"):
        return models.get_model(name, **config).eval()


def on_meta(model):
    """A copy without numbers."""
    numbers = {id(p): nn.Parameter(p.detach().to("meta"), False) for p in model.parameters()}
    numbers |= {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, numbers)


def load(name, weights=None, seed=0):
    """The model with weights of a name or a file; for None random ones, the same every time."""
    if weights is None:
        torch.manual_seed(seed)
        return models.get_model(name).eval()
    members = getattr(models.get_model_builder(name).weights, "__members__", {})
    if weights in members:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub's word of what it downloads
            return models.get_model(name, weights=weights).eval()
    if not Path(weights).is_file():
        known = ", ".join(["a file", *members])
        raise Misuse(f"--weights: got {weights!r}, expected one of {known}")
    return _load_file(name, Path(weights))


def _load_file(name, file):
    """The model with the file's weights, for as many classes and channels as these are."""
    from .training.checkpoint import load_weights

    try:
        state = load_weights(file)
        tensors = all(hasattr(value, "shape") for value in state.values())
    except Exception as error:  # each format and each damage has its own
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise Misuse(f"--weights: got {file}, expected a state dict ({reason})") from None
    if not tensors:
        raise Misuse(f"--weights: got {file}, expected a state dict and nothing else in it")
    model = models.get_model(name, **_sizes(skeleton(name), state)).eval()
    optional = tuple(getattr(model, "optional_parts", ()))  # for training only
    state = {k: v for k, v in model.state_dict().items() if k.startswith(optional)} | state
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise Misuse(f"--weights: got {file}, expected {name}'s ({reason} ...)") from None
    return model


def _sizes(skeleton, state):
    """A model's arguments, as far as its weights' shapes tell others than it has."""
    first, conv = first_convolution(skeleton)
    last = skeleton.classifier_name
    found = {}
    if f"{last}.weight" in state:
        found["num_classes"] = len(state[f"{last}.weight"])
    if conv and f"{first}.weight" in state:
        channels = state[f"{first}.weight"].shape[1] * conv.groups
        found |= {"in_chans": channels} if channels != conv.in_channels else {}
    return found


def traced(name, model, shape):
    """trace() of the model, or why it does not take such images."""
    try:
        return trace(on_meta(model), shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        size, reason = "x".join(map(str, shape)), first_line(error)
        raise Misuse(f"input: got {size}, expected what {name} takes: {reason}") from None


def first_convolution(model):
    """(name, module), of a model that has one"""
    found = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    return next(found, (None, None))


def input_shape(model, name, batch, image_size=None):
    """Of what the model gets: [batch, channels, height, width], a perceptron [batch, values]."""
    own = own_input(model, name)
    if image_size and len(own) < 3:
        raise Misuse(f"--image-size: got {image_size}, expected none: {name} gets {own[0]} values")
    return [batch, own[0], *((image_size,) * 2 if image_size else own[1:])]


def own_input(model, name):
    """What the model is made for, [channels, height, width] or [values]."""
    if hasattr(model, "input_size"):
        return tuple(model.input_size)
    size = getattr(model, "image_size", None)
    if size is None:
        weights = models.get_model_builder(name).weights
        size = weights.DEFAULT.transforms().crop_size if weights else 224
    return first_convolution(model)[1].in_channels, size, size


def random_input(shape):
    """Normal numbers, images in channels_last."""
    x = torch.randn(shape)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
