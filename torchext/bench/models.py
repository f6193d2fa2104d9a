"""Whole models, accelerated, beside plain PyTorch and the runtimes that models are exported to.

`torchext bench MODEL...` takes its cases from here; they are no part of the ops' run.
"""

from functools import partial
from itertools import product

import torch

from .. import accelerate
from ..acceleration._layers import leave_layers
from ..models import get_model, get_model_builder, list_models
from .case import SHORT, Case

BATCHES = (1, 8)
SUM_LENGTH = 1 << 14  # rounding grows from layer to layer: as over a sum of so many terms


def plain(name):
    """The model of PyTorch's own layers, with random weights."""
    model = get_model(name).eval()
    leave_layers(model)
    return model


def accelerated(name):
    return accelerate(plain(name))


def image_of(name, batch, generator):
    return (torch.randn(batch, *_size(name), generator=generator),)


def _size(name):
    weights = get_model_builder(name).weights
    if weights is not None:
        size = weights.DEFAULT.transforms.keywords["crop_size"]
        return 3, size, size
    return _OTHER_SIZES.get(name, (3, 224, 224))


_OTHER_SIZES = {"lenet5": (1, 32, 32), "nin": (3, 32, 32), "alexnet_original": (3, 227, 227)}
_FLAT = ("logistic_regression", "mlp", "slp")  # of vectors: no images


def cases():
    names = [name for name in list_models() if name not in _FLAT]
    return [_case(*which) for which in product(names, BATCHES, SHORT)]


def _case(name, batch, dtype):
    weights = get_model_builder(name).weights
    meta = weights.DEFAULT.meta if weights is not None else {}
    return Case(
        name=f"{name}/b{batch}/{SHORT[dtype]}",
        family="models",
        make_inputs=partial(image_of, name, batch),
        reference=partial(plain, name),
        ours=partial(accelerated, name),
        bytes=0,
        flops=int(2e9 * batch * (meta.get("_ops") or 0)),
        sum_length=SUM_LENGTH,
        dtype=dtype,
        layout="channels_last",
        batch=batch,
        devices=("cpu",),
    )
