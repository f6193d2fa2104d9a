"""A small model of images with text: does the text fit the image, and how does it go on?"""

import torch
from torch import nn

from .. import nn as tn
from ._transformer import MLP


class Block(nn.Module):
    """A transformer's: each part reads the norm of x, and is added to it.

    causal   no token sees those after it
    context  whether tokens look at others too, such as an image's
    """

    def __init__(self, width, heads, causal=False, context=False):
        super().__init__()
        self.causal = causal
        self.norm1 = tn.LayerNorm(width)
        self.attend = tn.MultiheadAttention(width, heads, batch_first=True)
        if context:
            self.norm2 = tn.LayerNorm(width)
            self.look = tn.MultiheadAttention(width, heads, batch_first=True)
        self.norm3 = tn.LayerNorm(width)
        self.mlp = MLP(width, 4 * width, dropout=0.0)

    def forward(self, x, padding=None, context=None):
        mask = None
        if self.causal:
            size = x.shape[1], x.shape[1]
            mask = torch.ones(size, dtype=torch.bool, device=x.device).triu(1)
        y = self.norm1(x)
        y, _ = self.attend(
            y, y, y, padding, need_weights=False, attn_mask=mask, is_causal=self.causal
        )
        x = x + y
        if context is not None:
            x = x + self.look(self.norm2(x), context, context, need_weights=False)[0]
        return x + self.mlp(self.norm3(x))


class ImageText(nn.Module):
    """(how well each text fits its image [batch], scores of each next token [batch, time, tokens])

    The image's patches become tokens that see each other; the text's see those before them, and all
    of the image. `max_length` is that of a text.
    """

    def __init__(
        self,
        vocabulary,
        width=64,
        heads=4,
        layers=2,
        image_size=32,
        patch_size=8,
        in_chans=3,
        max_length=64,
    ):
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"ImageText: image_size: got {image_size}, expected a multiple of {patch_size}"
            )
        self.patches = tn.Conv2d(in_chans, width, patch_size, patch_size)
        self.patch_positions = _positions((image_size // patch_size) ** 2, width)
        self.image_blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.image_norm = tn.LayerNorm(width)
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = _positions(max_length, width)
        self.text_blocks = nn.ModuleList(
            Block(width, heads, causal=True, context=True) for _ in range(layers)
        )
        self.norm = tn.LayerNorm(width)
        self.match = tn.Linear(width, 1)
        self.next = tn.Linear(width, vocabulary)

    def forward(self, image, tokens, padding=None):
        """padding  [batch, time], True for tokens that are none"""
        x = self.read(tokens, self.look(image), padding)
        if padding is None:
            whole = x.mean(1)
        else:
            valid = (~padding)[..., None].to(x.dtype)
            whole = (x * valid).sum(1) / valid.sum(1).clamp(min=1)
        return self.match(whole).squeeze(1), self.next(x)

    def look(self, image):
        """The image's tokens, [batch, patches, width]."""
        x = self.patches(image).flatten(2).transpose(1, 2) + self.patch_positions
        for block in self.image_blocks:
            x = block(x)
        return self.image_norm(x)

    def read(self, tokens, image, padding=None):
        """The text's, [batch, time, width], from the image's."""
        if tokens.shape[1] > len(self.positions):
            raise ValueError(
                f"ImageText: tokens: got {tokens.shape[1]}, expected at most {len(self.positions)}"
            )
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        for block in self.text_blocks:
            x = block(x, padding, image)
        return self.norm(x)


def _positions(count, width):
    return nn.Parameter(0.02 * torch.randn(count, width))
