"""Images with labels: the digits that scikit-learn ships, or folders of classes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from ..models._preprocess import ImageClassification
from . import augment

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
HELD_OUT = 5  # every fifth image of a class validates, where nobody split them
SAMPLED = 256  # images that the pixels' statistics are made of


@dataclass
class Data:
    """What `fit` trains on: datasets of (input, label) by index."""

    train: Dataset
    val: Dataset
    classes: list
    channels: int
    images: dict | None = None  # the size, mean and std of what the model gets


class Images(Dataset):
    """A source's images, transformed; a source has (PIL image or floats in [0, 1], label)."""

    def __init__(self, source, transform):
        self.source, self.transform = source, transform

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        image, label = self.source[i]
        return self.transform(image), label


class Files(Dataset):
    """A source: images in files."""

    def __init__(self, files, labels):
        self.files, self.labels = files, labels

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return _opened(self.files[i]), self.labels[i]


class Channels(nn.Module):
    """An image with so many channels, 1 or 3."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, image):
        if isinstance(image, torch.Tensor):
            return image.expand(self.count, -1, -1)
        return image.convert({1: "L", 3: "RGB"}[self.count])


def split(labels):
    """(indices that train, indices that validate): the latter are every fifth of each class."""
    train, val, seen = [], [], {}
    for i, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        (train if seen[label] % HELD_OUT else val).append(i)
    return train, val


def digits():
    """(train, validate, classes): 1797 images of 8x8 pixels in 17 greys."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RuntimeError("data: digits needs scikit-learn: pip install scikit-learn") from None
    found = load_digits()
    images, labels = torch.from_numpy(found.images).float()[:, None] / 16, found.target.tolist()
    train, val = ([(images[i], labels[i]) for i in part] for part in split(labels))
    return train, val, [str(n) for n in range(10)]


def folder(path):
    """(train, validate, classes) of PATH/train/CLASS/* and PATH/val/CLASS/*, or of PATH/CLASS/*."""
    if not path.is_dir():
        raise ValueError(f"data: got {str(path)!r}, expected digits or a folder")
    if not (path / "train").is_dir():
        classes, files, labels = _class_folders(path)
        train, val = (Files([files[i] for i in p], [labels[i] for i in p]) for p in split(labels))
        if not len(val):
            raise ValueError(
                f"data: {path}: got no class of {HELD_OUT} images, the fifth validates"
            )
        return train, val, classes
    classes, *train = _class_folders(path / "train")
    val_classes, *val = _class_folders(path / "val")
    if val_classes != classes:
        differing = ", ".join(sorted(set(classes) ^ set(val_classes)))
        raise ValueError(f"data: {path}: train and val differ in their classes: {differing}")
    return Files(*train), Files(*val), classes


def _class_folders(path):
    """(classes, files, the class of each file), sorted by name."""
    if not path.is_dir():
        raise ValueError(f"data: got no folder {str(path)!r}")
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    found = [
        (file, label)
        for label, folder in enumerate(folders)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if len({label for _, label in found}) < max(len(folders), 2):
        raise ValueError(
            f"data: {path}: got {len(folders)} folders, expected two or more of images"
        )
    files, labels = zip(*found, strict=True)
    return [f.name for f in folders], list(files), list(labels)


def _opened(file):
    try:
        from PIL import Image
    except ImportError:
        raise RuntimeError("data: images in files need Pillow: pip install pillow") from None
    try:
        image = Image.open(file)
        image.load()
    except OSError as error:
        raise RuntimeError(f"data: {file} is no image that can be read ({error})") from None
    if image.mode[0] in "IF":
        raise RuntimeError(f"data: {file} has pixels of mode {image.mode}, expected 8 bits")
    return image


def _channels_of(image):
    if isinstance(image, torch.Tensor):
        return len(image)
    return 1 if image.mode in ("1", "L", "LA") else 3


def sampled(source):
    """Images of a source, evenly spaced."""
    count = min(len(source), SAMPLED)
    return (source[i * len(source) // count][0] for i in range(count))


def statistics(images):
    """(mean, covariance) of the pixels' channels."""
    count, total, products = 0, 0.0, 0.0
    for image in images:
        pixels = image.double().flatten(1)
        count += pixels.shape[1]
        total, products = total + pixels.sum(1), products + pixels @ pixels.T
    mean = total / count
    return mean.float(), (products / count - mean[:, None] * mean).float()


def open_data(options, size=None, mean=None, std=None):
    """The Data of the options, as images of this size, normalised as trained weights want it, or
    else by the training images' own mean and standard deviation.
    """
    if options.data == "digits":
        train, val, classes = digits()
    else:
        train, val, classes = folder(Path(options.data))
    size = options.img_size or size or (32 if options.data == "digits" else 224)
    channels = len(mean) if mean else max(map(_channels_of, sampled(train)))
    convert = Channels(channels)
    frame = ImageClassification(crop_size=size, resize_size=size, mean=(0,), std=(1,))
    own_mean, covariance = statistics(frame(convert(image)) for image in sampled(train))
    mean = mean or own_mean.tolist()
    std = std or covariance.diagonal().clamp(min=1e-6).sqrt().tolist()
    normalise = augment.Normalise(mean, std)
    steps = augment.transforms(options, frame, covariance)
    return Data(
        Images(train, nn.Sequential(convert, *steps, normalise)),
        Images(val, nn.Sequential(convert, frame, normalise)),
        classes,
        channels,
        {"size": size, "mean": list(mean), "std": list(std)},
    )
