"""Weights that torchvision and timm publish: where they are, how good, what images they want.

weights.json holds one line for each. They are loaded from their own places into torch.hub's cache,
checked against their checksums, and read only in ways that run no code.
"""

import hashlib
import json
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import urlparse

import torch

from ._preprocess import ImageClassification


@dataclass(frozen=True, eq=False)
class Weights:
    """The fields that torchvision's have."""

    url: str
    transforms: partial
    meta: dict


class WeightsEnum(Enum):
    """All weights of one model; `DEFAULT` is the best."""

    @classmethod
    def verify(cls, weights):
        """A member, from itself, from its name, or from torchvision's of that name."""
        if weights is None or isinstance(weights, cls):
            return weights
        name = weights if isinstance(weights, str) else repr(weights)
        name = name.removeprefix(f"{cls.__name__}.")
        if name not in cls.__members__:
            names = ", ".join(cls.__members__)
            raise ValueError(f"{cls.__name__}: got {weights!r}, expected one of {names}, or None")
        return cls[name]

    def get_state_dict(self, progress=True, check_hash=True):
        return _fetch(self.url, progress, check_hash)

    def __reduce_ex__(self, protocol):
        return getattr, (type(self), self.name)

    def __repr__(self):
        return f"{type(self).__name__}.{self.name}"

    @property
    def url(self):
        return self.value.url

    @property
    def transforms(self):
        return self.value.transforms

    @property
    def meta(self):
        return self.value.meta


@lru_cache
def _table():
    return json.loads((Path(__file__).parent / "weights.json").read_text())


@lru_cache
def _categories():
    return (Path(__file__).parent / "imagenet.txt").read_text().splitlines()


@lru_cache
def enum_of(model):
    """The WeightsEnum of a model, or None."""
    rows = [row for row in _table() if row["model"] == model]
    members = {}
    for row in rows:
        members[row["name"]] = _weights(row)
        if row.get("default"):
            members["DEFAULT"] = members[row["name"]]
    if not rows:
        return None
    return WeightsEnum(rows[0]["enum"], members, module=__package__)


def _weights(row):
    metrics = {"ImageNet-1K": {key: row[key] for key in ("acc@1", "acc@5") if key in row}}
    meta = {
        "num_params": row["num_params"],
        "min_size": tuple(row["min_size"]),
        "categories": None if row.get("features") else _categories(),
        "_metrics": metrics,
        "_ops": row.get("GMAC"),
        "_file_size": row.get("MB"),
    }
    return Weights(row["url"], partial(ImageClassification, **row["transforms"]), meta)


def load(model, weights, progress, new_head=False):
    """Trained weights into a new model, whose last layer, if so asked, stays as it is."""
    own, state = model.state_dict(), weights.get_state_dict(progress)
    state = state.get("model", state)  # DeiT's files hold it among other things
    optional = getattr(model, "optional_parts", ())  # of which trained weights may have more
    if any(k.startswith(optional) for k in own):
        parts = " and ".join(part.rstrip(".") for part in optional)
        warnings.warn(
            f"{type(model).__name__}: {parts} of {weights!r} are not trained: train them",
            stacklevel=3,
        )
    state = {k: v for k, v in state.items() if k in own or not k.startswith(optional)}
    if new_head:
        heads = tuple(f"{name}." for name in model.classifier_names())
        state = {k: v for k, v in state.items() if not k.startswith(heads)}
        state |= {k: v for k, v in own.items() if k.startswith(heads)}
    first = next(n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)) + ".weight"
    if first in state:
        state[first] = adapt_input_conv(own[first].shape[1], state[first])
    model.load_state_dict(state)


def adapt_input_conv(in_chans, weight):
    """A first convolution's weight [O, 3, H, W] for images of other channels, as timm does it: for
    one channel the sum, for more the three in turn, with the same sum for images all alike."""
    if in_chans == 3 or weight.shape[1] != 3:
        return weight
    if in_chans == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.float().repeat(1, -(-in_chans // 3), 1, 1)[:, :in_chans]
    return (repeated * (3 / in_chans)).to(weight.dtype)


def _fetch(url, progress, check_hash):
    name = Path(urlparse(url).path).name
    if name == "model.safetensors":  # on Hugging Face's hub, where the folder has the name
        name = f"{url.split('/')[4]}.safetensors"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        if name.endswith(".safetensors"):
            return _fetch_safetensors(url, cached, progress, check_hash)
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=progress, check_hash=check_hash, weights_only=True
        )
    except (urllib.error.URLError, OSError) as error:
        raise RuntimeError(
            f"weights: could not get {url} ({error}); without a network, put the file at {cached}"
        ) from error


def _fetch_safetensors(url, cached, progress, check_hash):
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise RuntimeError(f"weights: {url} needs safetensors: pip install safetensors") from None
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), None, progress)
        if check_hash and (expected := _sha256_at_hub(url)) != _sha256(cached):
            cached.unlink()
            raise RuntimeError(f"weights: {url}: got another checksum, expected {expected}")
    return load_file(cached)


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sha256_at_hub(url):
    """The checksum under which the hub stores a large file: told before it redirects there."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args):
            return None

    request = urllib.request.Request(url, method="HEAD")
    try:
        headers = urllib.request.build_opener(Stay).open(request).headers
    except urllib.error.HTTPError as redirected:
        headers = redirected.headers
    return (headers.get("X-Linked-Etag") or headers.get("ETag") or "").strip('"')
