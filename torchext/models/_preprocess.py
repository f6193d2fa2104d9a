"""From an image to a classifier's input, as torchvision's ImageClassification preset does it."""

import torch
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class ImageClassification(nn.Module):
    """Resize the shorter side, crop the centre, scale to [0, 1], normalise.

    Takes a PIL image, or a tensor [..., C, H, W] of bytes or of floats in [0, 1].
    """

    def __init__(
        self,
        *,
        crop_size,
        resize_size=256,
        mean=MEAN,
        std=STD,
        interpolation="bilinear",
        antialias=True,
    ):
        super().__init__()
        self.crop_size, self.resize_size = crop_size, resize_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.interpolation, self.antialias = interpolation, antialias

    def forward(self, image):
        image = self._resized(image)
        if not isinstance(image, torch.Tensor):
            image = _bytes_of(image)
        image = _centre(image, self.crop_size)
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        mean, std = (
            torch.tensor(v, device=image.device)[:, None, None] for v in (self.mean, self.std)
        )
        return (image - mean) / std

    def _resized(self, image):
        if isinstance(image, torch.Tensor):
            height, width = image.shape[-2:]
        else:
            width, height = image.size
        short, long = min(height, width), max(height, width)
        size = self.resize_size, int(self.resize_size * long / short)
        height, width = size if height <= width else size[::-1]
        if not isinstance(image, torch.Tensor):
            from PIL import Image

            return image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        batch = image.flatten(0, -4) if image.dim() > 3 else image[None]
        resized = nn.functional.interpolate(
            batch.float(), (height, width), mode=self.interpolation, antialias=self.antialias
        )
        if image.dtype == torch.uint8:
            resized = resized.clamp_(0, 255).round_().byte()
        return resized.view(*image.shape[:-2], height, width)

    def extra_repr(self):
        return ", ".join(
            f"{k}={getattr(self, k)}"
            for k in ("crop_size", "resize_size", "mean", "std", "interpolation")
        )


def _bytes_of(image):
    """[C, H, W] of a PIL image."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, len(image.getbands())).permute(2, 0, 1)


def _centre(image, size):
    """The size x size pixels in the middle; zeros where the image is smaller."""
    height, width = image.shape[-2:]
    if height < size or width < size:
        left, top = max(size - width, 0) // 2, max(size - height, 0) // 2
        right, bottom = (max(size - width, 0) + 1) // 2, (max(size - height, 0) + 1) // 2
        image = nn.functional.pad(image, (left, right, top, bottom))
        height, width = image.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[..., top : top + size, left : left + size]
