"""Augmentation: torchvision's transforms, and the colour shift of AlexNet."""

import torch
from torch import nn


class Normalise(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (mean, std))

    def forward(self, image):
        return (image - self.mean) / self.std


class PCAColour(nn.Module):
    """Adds to every pixel the training pixels' principal components, each times its eigenvalue and
    a number from N(0, sigma): light of another intensity and colour (Krizhevsky et al., 2012).
    """

    def __init__(self, covariance, sigma):
        super().__init__()
        eigenvalues, components = torch.linalg.eigh(covariance)
        self.shifts, self.sigma = components * eigenvalues.clamp(min=0), sigma

    def forward(self, image):
        shift = self.shifts @ (torch.randn(len(self.shifts)) * self.sigma)
        return (image + shift[:, None, None]).clamp(0, 1)


def transforms(options, frame, covariance):
    """Steps from a source's image to floats in [0, 1]; `frame` is the one that does no more."""
    steps = [frame]
    if options.crop:
        crop = _torchvision().RandomResizedCrop(frame.crop_size, scale=(options.crop, 1.0))
        steps.insert(0, crop)  # of the image as it is, which has more pixels than the frame
    if options.hflip:
        steps.append(_torchvision().RandomHorizontalFlip(options.hflip))
    if options.rotate or options.shear:
        bilinear = _torchvision().InterpolationMode.BILINEAR
        affine = _torchvision().RandomAffine
        steps.append(affine(options.rotate, shear=options.shear, interpolation=bilinear))
    if options.color_jitter:
        steps.append(_torchvision().ColorJitter(*[options.color_jitter] * 3))
    if options.pca_color:
        steps.append(PCAColour(covariance, options.pca_color))
    return steps


def _torchvision():
    try:
        from torchvision.transforms import v2
    except ImportError:
        raise RuntimeError("augmentation needs torchvision: pip install torchvision") from None
    return v2
