"""From the files that a command is given to a model's input."""

import numpy as np
import torch

from . import models
from ._command import Misuse, existing_file, first_line, needed, numbers
from ._model import own_input, traced
from .models._preprocess import ImageClassification, _centre

SUFFIXES = {".jpeg", ".jpg", ".png"}
WHOLE = 128  # images for models smaller than this are not cropped


class Broken(Exception):  # noqa: N818 - its message is what users see
    """A file that is no image, or none of use."""


class Reader:
    """From a file to the model's input [1, channels, size, size], as the weights want it.

    That is what `weights.transforms` says, ImageNet's where there is none, but for the options.
    A mean image has bytes' numbers, 0 to 255, and its channels in the order of the model's input.
    """

    def __init__(self, model, name, options):
        own = own_input(model, name)
        if len(own) != 3:
            raise Misuse(f"MODEL: got {name}, expected one that takes images")
        self.channels = own[0]
        usual = _usual(model, name, options)
        self.bgr = options.bgr
        if self.bgr and self.channels != 3:
            raise Misuse(f"--bgr: got {name} with {self.channels} channel, expected three")
        crop = options.image_size or getattr(model, "image_size", usual.crop_size)
        traced(name, model, [1, self.channels, crop, crop])  # tells whether it takes such images
        self.frame = ImageClassification(
            crop_size=crop,
            resize_size=round(usual.resize_size * crop / usual.crop_size),
            mean=(0,) * self.channels,
            std=(1,) * self.channels,
            interpolation=usual.interpolation,
        )
        self.mean = self._of_channels("--mean", options.mean or usual.mean)
        self.std = self._of_channels("--std", options.std or usual.std)
        if options.mean_image:
            if options.mean:
                raise Misuse("--mean: got --mean-image too, expected one of them")
            self.mean = self._mean_image(options.mean_image, crop)

    def _of_channels(self, option, values):
        if len(values) != self.channels:
            raise Misuse(f"{option}: got {len(values)} numbers, expected {self.channels}")
        return torch.tensor(values)[:, None, None]

    def _mean_image(self, file, size):
        """[channels, size, size] in [0, 1], the middle of a larger one."""
        try:
            mean = torch.from_numpy(np.load(file)).float() / 255
        except (OSError, ValueError, TypeError) as error:
            raise Misuse(f"--mean-image: got {file}, expected .npy ({first_line(error)})") from None
        shape = list(mean.shape)
        if mean.dim() == 3 and mean.shape[0] != self.channels:
            mean = mean.permute(2, 0, 1)
        if mean.dim() != 3 or mean.shape[0] != self.channels or min(mean.shape[1:]) < size:
            wanted = f"[{self.channels}, {size}, {size}] or larger"
            raise Misuse(f"--mean-image: got {shape}, expected {wanted}")
        return _centre(mean.flip(0) if self.bgr else mean, size)

    def __call__(self, file):
        x = (self.frame(_opened(file, self.channels)) - self.mean) / self.std
        return (x.flip(0) if self.bgr else x)[None]


def _usual(model, name, options):
    """The preprocessing of the weights, or what is usual where they come without any."""
    channels, size, *_ = own_input(model, name)
    published = models.get_model_builder(name).weights
    if published and channels == 3:
        members = published.__members__
        return members.get(options.weights, published.DEFAULT).transforms()
    settings = {"crop_size": size, "resize_size": size if size < WHOLE else max(256, size)}
    if channels != 3:
        settings |= {"mean": (0,) * channels, "std": (1,) * channels}
    return ImageClassification(**settings)


def _opened(file, channels):
    Image = needed("PIL.Image", "pillow")
    try:
        image = Image.open(file)
        image.load()
        image = needed("PIL.ImageOps", "pillow").exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Broken(first_line(error) or type(error).__name__) from None
    if image.mode[0] in "IF":
        raise Broken(f"got pixels of mode {image.mode}, expected 8 bits")
    return image.convert("L" if channels == 1 else "RGB")


def add_preprocessing(parser):
    parser.add_image_size()
    parser.add_argument("--bgr", action="store_true", help="the model wants blue, green, red")
    parser.add_argument("--mean", type=numbers, metavar="R,G,B", help="of pixels in 0 to 1")
    parser.add_argument("--std", type=numbers, metavar="R,G,B", help="of pixels in 0 to 1")
    parser.add_argument(
        "--mean-image", type=existing_file, metavar="FILE.npy", help="of pixels in 0 to 255"
    )


def files_of(path):
    """The images that a file or folder is or has."""
    if not path.is_dir():
        return [path]
    found = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
    if not found:
        raise Misuse(f"--image: got {path}, expected {', '.join(sorted(SUFFIXES))} in it")
    return found
