"""Whole models, accelerated, beside plain PyTorch and the runtimes that models are exported to.

`torchext bench MODEL...` takes its cases from here; they are no part of the ops' run.
"""

from functools import cache, partial
from importlib import metadata
from itertools import product

import torch

from .. import accelerate, models
from .._verify import unlike
from ..acceleration._layers import leave_layers
from .case import MODELS, SHORT, Case

BATCHES = (1, 8)
SUM_LENGTH = 1 << 14  # rounding grows from layer to layer: as over a sum of so many terms


def reference(name):
    """The model as others have it, with random weights."""
    model = _build(name).eval()
    # As libraries begin them, GoogLeNet has one output for all images and a ViT zeros: the gate
    # would see nothing.
    return unlike(models.initialise(model, "he"))


def _build(name):
    library, _, _ = origin(name).partition(" ")
    if library == "torchvision":
        import torchvision

        more = {"init_weights": False} if name == "googlenet" else {}  # silences a warning
        return torchvision.models.get_model(name, **more)
    if library == "timm":
        import timm

        return timm.create_model("mobilenetv1_100" if name in _MOBILENETS else name)
    model = models.get_model(name)
    leave_layers(model)
    return model


_MOBILENETS = ("mobilenet", "mobilenet_v1", "mobilenetv1_100")
_TIMMS = {*_MOBILENETS, *models.list_models(models.deit), "vit_tiny_patch16_224"}
_PAPERS = {n for m in (models.classic, models.lenet, models.plain) for n in models.list_models(m)}


def origin(name):
    """The library, with its version, whose model is the reference: torchext's, with torch's layers,
    only where no other has it."""
    if name in _PAPERS:
        return "torchext"
    library = "timm" if name in _TIMMS else "torchvision"
    version = _version(library)
    return f"{library} {version}" if version else f"torchext ({library} is not installed)"


@cache
def _version(library):
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def accelerated(name):
    return accelerate(reference(name))


def image_of(name, batch, generator):
    return (torch.randn(batch, *_size(name), generator=generator),)


def _size(name):
    weights = models.get_model_builder(name).weights
    if weights is not None:
        size = weights.DEFAULT.transforms.keywords["crop_size"]
        return 3, size, size
    return _OTHER_SIZES.get(name, (3, 224, 224))


_OTHER_SIZES = {"lenet5": (1, 32, 32), "nin": (3, 32, 32), "alexnet_original": (3, 227, 227)}
_FLAT = ("logistic_regression", "mlp", "slp")  # of vectors: no images


def cases():
    names = [name for name in models.list_models() if name not in _FLAT]
    return [_case(*which) for which in product(names, BATCHES, SHORT)]


def _case(name, batch, dtype):
    weights = models.get_model_builder(name).weights
    meta = weights.DEFAULT.meta if weights is not None else {}
    return Case(
        name=f"{name}/b{batch}/{SHORT[dtype]}",
        family=MODELS,
        origin=origin(name),
        make_inputs=partial(image_of, name, batch),
        reference=partial(reference, name),
        ours=partial(accelerated, name),
        bytes=0,
        flops=int(2e9 * batch * (meta.get("_ops") or 0)),
        sum_length=SUM_LENGTH,
        dtype=dtype,
        layout="channels_last",
        batch=batch,
        devices=("cpu",),
    )
