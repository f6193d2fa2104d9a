"""Whole models, accelerated, beside plain PyTorch and the runtimes that models are exported to.

`torchext bench MODEL...` takes its cases from here; they are no part of the ops' run.
"""

import fnmatch
from functools import cache, partial
from importlib import metadata

import torch

from .. import accelerate, models
from .._verify import unlike
from ..acceleration._layers import leave_layers
from .case import LONG, MODELS, Case

BATCHES = (1, 8)
SUM_LENGTH = 1 << 14  # rounding grows from layer to layer: as over a sum of so many terms


def reference(name, size=None):
    """The model as others have it, with random weights, for images of another size than its own."""
    model = _build(name, size).eval()
    # As libraries begin them, GoogLeNet has one output for all images and a ViT zeros: the gate
    # would see nothing.
    return unlike(models.initialise(model, "he"))


def _build(name, size=None):
    library, _, _ = origin(name).partition(" ")
    more = {}
    if size is not None and name.startswith(("deit", "vit")):  # as many positions as patches
        more["img_size" if name in _TIMMS else "image_size"] = size
    if library == "torchvision":
        import torchvision

        more |= {"init_weights": False} if name == "googlenet" else {}  # silences a warning
        return torchvision.models.get_model(name, **more)
    if library == "timm":
        import timm

        return timm.create_model("mobilenetv1_100" if name in _MOBILENETS else name, **more)
    model = models.get_model(name, **more)
    leave_layers(model)
    return model


_ALIASES = ("mobilenet_v1", "mobilenetv1_100")  # of mobilenet
_MOBILENETS = ("mobilenet", *_ALIASES)
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


def accelerated(name, size=None):
    return accelerate(reference(name, size))


def image_of(name, batch, size, generator):
    channels, *own = _shape(name)
    own = own if size is None else (size, size)
    return (torch.randn(batch, channels, *own, generator=generator),)


def _shape(name):
    return _OTHER_SIZES.get(name, (3, 224, 224))


_OTHER_SIZES = {"lenet5": (1, 32, 32), "nin": (3, 32, 32), "alexnet_original": (3, 227, 227)}
_FLAT = ("logistic_regression", "mlp", "slp")  # of vectors: no images


def _gmac(name):
    """Of an image, as its weights tell it; 0 where they don't, or are for images of another size
    (vit_h_14's)."""
    weights = models.get_model_builder(name).weights
    if weights is None or weights.DEFAULT.transforms.keywords["crop_size"] != _shape(name)[1]:
        return 0
    return weights.DEFAULT.meta.get("_ops") or 0


def names(patterns=("*",)):
    """The models that these stand for: names, or patterns as the shell has them."""
    known = [name for name in models.list_models() if name not in _FLAT]
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise ValueError(
                f"got {pattern!r}, expected one that torchext list shows, or a pattern"
            )
    chosen = {name for pattern in patterns for name in fnmatch.filter(known, pattern)}
    return [n for n in known if n in patterns or (n in chosen and n not in _ALIASES)]


def cases():
    return [case(f"{name}/b{b}/{dtype}") for name in names() for b in BATCHES for dtype in LONG]


def case(which):
    """Of MODEL/bBATCH/DTYPE, and /SIZE where the images' size is not the model's own."""
    name, batch, dtype, *size = which.split("/")
    batch, size = int(batch[1:]), int(size[0]) if size else None
    return Case(
        name=which,
        family=MODELS,
        origin=origin(name),
        make_inputs=partial(image_of, name, batch, size),
        reference=partial(reference, name, size),
        ours=partial(accelerated, name, size),
        bytes=0,
        flops=int(2e9 * batch * _gmac(name)) if size is None else 0,
        sum_length=SUM_LENGTH,
        dtype=LONG[dtype],
        layout="channels_last",
        batch=batch,
        devices=("cpu",),
    )
