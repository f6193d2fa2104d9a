"""DeiT and the plain vision transformer that it is, as in timm."""

import math

import torch
from torch import nn

from .. import nn as tn
from ..nn import functional as F
from ..nn.attention import _relative_position_index
from ._model import check_pool
from ._registry import register
from ._transformer import Blocks, StochasticDepth, Transformer, rising
from ._vit_keys import vit_to_timm
from .vit import resample_positions


class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, embed_dim=768):
        super().__init__()
        self.img_size, self.patch_size = _pair(img_size), _pair(patch_size)
        h, w = self.grid_size = tuple(
            size // patch for size, patch in zip(self.img_size, self.patch_size, strict=True)
        )
        self.num_patches = h * w
        self.proj = tn.Conv2d(in_chans, embed_dim, self.patch_size, self.patch_size)

    def forward(self, x):
        height, width = x.shape[2], x.shape[3]
        for axis, got, size in zip(
            ("height", "width"), (height, width), self.img_size, strict=True
        ):
            torch._assert(got == size, f"PatchEmbed: {axis}: got {got}, expected {size}")
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Of packed queries, keys and values. `grid`: of so many patches, which follow `others` other
    tokens, each pair adds a number for how far apart they are to its scores, one for each head."""

    def __init__(
        self, dim, num_heads=8, qkv_bias=False, attn_drop=0.0, proj_drop=0.0, grid=None, others=1
    ):
        super().__init__()
        if dim % num_heads != 0:
            raise ValueError(f"Attention: num_heads: got {num_heads}, expected a divisor of {dim}")
        self.num_heads, self.others = num_heads, others
        self.qkv = tn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = tn.Linear(dim, dim)
        self.proj_drop = tn.Dropout(proj_drop)
        self.relative_position_bias_table = None
        if grid is not None:
            h, w = grid
            distances = (2 * h - 1) * (2 * w - 1)
            self.relative_position_bias_table = nn.Parameter(torch.empty(distances, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
            index = _relative_position_index(h, w)
            self.register_buffer("relative_position_index", index, persistent=False)

    def _bias(self):
        if self.relative_position_bias_table is None:
            return None
        bias = self.relative_position_bias_table[self.relative_position_index]
        patches = math.isqrt(len(bias))
        bias = bias.T.unflatten(1, (patches, patches))
        return nn.functional.pad(bias, (self.others, 0, self.others, 0)).unsqueeze(0)

    def forward(self, x):
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        if self.training and self.attn_drop.p > 0:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, self._bias(), self.attn_drop.p)
            y = y.transpose(1, 2).flatten(2)
        else:
            y = F.attention_qkv(qkv, self._bias())
        return self.proj_drop(self.proj(y))


class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features, drop=0.0):
        super().__init__()
        self.fc1 = tn.Linear(in_features, hidden_features)
        self.act = tn.GELU()
        self.drop1 = tn.Dropout(drop)
        self.fc2 = tn.Linear(hidden_features, in_features)
        self.drop2 = tn.Dropout(drop)

    def forward(self, x):
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class Block(nn.Module):
    def __init__(self, attention, dim, mlp_ratio=4.0, proj_drop=0.0, drop_path=0.0):
        super().__init__()
        self.norm1 = tn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.drop_path1 = StochasticDepth(drop_path)
        self.norm2 = tn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), proj_drop)
        self.drop_path2 = StochasticDepth(drop_path)

    def forward(self, x):
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class VisionTransformer(Transformer):
    """pos  how patches know their places: "learned" or "sinusoidal", by a table added to them, or
    "relative", by numbers added to attention's scores
    """

    classifier_name = "head"
    tokens = ("cls_token",)  # before the patches
    global_pools = ("token", "avg", "max", "avgmax", "")

    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        num_classes=1000,
        global_pool="token",
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        qkv_bias=True,
        drop_rate=0.0,
        pos_drop_rate=0.0,
        proj_drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.0,
        pos="learned",
    ):
        super().__init__()
        check_pool("VisionTransformer", global_pool, self.global_pools)
        if pos not in ("learned", "sinusoidal", "relative"):
            raise ValueError(
                f"VisionTransformer: pos: got {pos!r}, expected 'learned', 'sinusoidal' or"
                " 'relative'"
            )
        self.num_classes, self.global_pool = num_classes, global_pool
        self.num_features = self.embed_dim = embed_dim
        self.num_prefix_tokens = others = len(self.tokens)
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        grid, patches = self.patch_embed.grid_size, self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        if pos == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, others + patches, embed_dim))
        elif pos == "sinusoidal":
            table = nn.functional.pad(sinusoidal_positions(grid, embed_dim), (0, 0, others, 0))
            self.register_buffer("pos_embed", table.unsqueeze(0), persistent=False)
        else:
            self.pos_embed = None
        for name in self.tokens[1:]:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, embed_dim)))
        self.pos_drop = tn.Dropout(pos_drop_rate)
        attention = (
            *(embed_dim, num_heads, qkv_bias, attn_drop_rate, proj_drop_rate),
            *(grid if pos == "relative" else None, others),
        )
        self.blocks = Blocks(
            *(
                Block(Attention(*attention), embed_dim, mlp_ratio, proj_drop_rate, drop_path)
                for drop_path in rising(drop_path_rate, depth)
            )
        )
        reduction = max(self.patch_embed.patch_size)
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": reduction, "module": f"blocks.{i}"}
            for i in range(depth)
        ]
        norm, none = tn.LayerNorm(embed_dim, eps=1e-6), nn.Identity()
        pooled_first = global_pool not in ("token", "")
        self.norm, self.fc_norm = (none, norm) if pooled_first else (norm, none)
        self.head_drop = tn.Dropout(drop_rate)
        for name in self.classifier_names():
            head = tn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
            self.add_module(name, head)
        self._initialise()

    def _initialise(self):
        for name in self.tokens[1:]:
            _trunc_normal_(getattr(self, name))
        if isinstance(self.pos_embed, nn.Parameter):
            _trunc_normal_(self.pos_embed)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _trunc_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _embed(self, x):
        tokens = [getattr(self, name).expand(x.shape[0], -1, -1) for name in self.tokens]
        x = torch.cat([*tokens, self.patch_embed(x)], 1)
        return self.pos_drop(x if self.pos_embed is None else x + self.pos_embed)

    def stages(self, x):
        return self.blocks.each(self._embed(x))

    def as_map(self, x):
        x = x[:, self.num_prefix_tokens :].unflatten(1, self.patch_embed.grid_size)
        return x.permute(0, 3, 1, 2)

    def finish(self, x):
        return self.norm(x)

    def forward_features(self, x):
        return self.norm(self.blocks(self._embed(x)))

    def forward_head(self, x, pre_logits=False):
        x = self.head_drop(self.fc_norm(self.pool(x)))
        return x if pre_logits else self.head(x)

    def pool(self, x):
        if self.global_pool == "token":
            return x[:, 0]
        if self.global_pool == "":
            return x
        x = x[:, self.num_prefix_tokens :]
        if self.global_pool == "avg":
            return x.mean(1)
        return x.amax(1) if self.global_pool == "max" else 0.5 * (x.amax(1) + x.mean(1))

    def set_global_pool(self, global_pool):
        """As in timm, the last norm stays where it is, before or after pooling."""
        self.global_pool = global_pool

    def make_features_only(self, out_indices=None):
        """Of the last three blocks, as in timm, if nothing else is asked for."""
        return super().make_features_only(3 if out_indices is None else out_indices)

    def no_weight_decay(self):
        names = {name for name, _ in self.named_parameters()}
        tables = {name for name in names if name.endswith("relative_position_bias_table")}
        return tables | names & {"pos_embed", *self.tokens}

    def group_matcher(self, coarse=False):
        return {
            "stem": rf"^{'|'.join(self.tokens)}|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def converted(self, state):
        """Positions, too, if they are for images of another size."""
        state = vit_to_timm(state)
        table, mine = state.get("pos_embed"), self.pos_embed
        if table is not None and mine is not None and table.shape[1] != mine.shape[1]:
            grid = self.patch_embed.grid_size
            how = {"mode": "bicubic", "antialias": True}
            table = resample_positions(table, self.num_prefix_tokens, grid, **how)
            return {**state, "pos_embed": table}
        return state


class VisionTransformerDistilled(VisionTransformer):
    """With a second token and head, which learn from a teacher; scores are the heads' mean."""

    classifier_name = ("head", "head_dist")
    tokens = ("cls_token", "dist_token")
    global_pools = ("token",)
    distilled_training = False

    def reset_classifier(self, num_classes, global_pool=None):
        """As in timm, global_pool "" changes nothing: both tokens are read."""
        super().reset_classifier(num_classes, global_pool or None)

    def set_distilled_training(self, enable=True):
        """Whether training returns both heads' scores, each for a loss of its own."""
        self.distilled_training = enable

    def forward_head(self, x, pre_logits=False):
        x, x_dist = self.head_drop(x[:, 0]), self.head_drop(x[:, 1])
        if pre_logits:
            return (x + x_dist) / 2
        x, x_dist = self.head(x), self.head_dist(x_dist)
        if self.distilled_training and self.training:
            return x, x_dist
        return (x + x_dist) / 2


def _trunc_normal_(x, std=0.02):
    """timm's, for whose bounds, -2 and 2, a truncated distribution is the whole one."""
    with torch.no_grad():
        x.uniform_(-1, 1).erfinv_().mul_(std * math.sqrt(2)).clamp_(-2, 2)


def sinusoidal_positions(grid, channels):
    """A table [patches, channels]: sines and cosines of the row, then of the column, whose wave
    lengths rise from 2 pi to 10000 times that."""
    if channels % 4 != 0:
        raise ValueError(
            f"sinusoidal_positions: channels: got {channels}, expected a multiple of 4"
        )
    frequencies = 10000.0 ** -(torch.arange(channels // 4) / (channels // 4))
    places = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    angles = [torch.outer(place.flatten(), frequencies) for place in places]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


@register(timms=True)
def vit_tiny_patch16_224(**kwargs):
    return VisionTransformer(**{"embed_dim": 192, "num_heads": 3, **kwargs})


@register(timms=True)
def deit_tiny_patch16_224(**kwargs):
    return VisionTransformer(**{"embed_dim": 192, "num_heads": 3, **kwargs})


@register(timms=True)
def deit_small_patch16_224(**kwargs):
    return VisionTransformer(**{"embed_dim": 384, "num_heads": 6, **kwargs})


@register(timms=True)
def deit_base_patch16_224(**kwargs):
    return VisionTransformer(**{"embed_dim": 768, "num_heads": 12, **kwargs})


@register(timms=True)
def deit_tiny_distilled_patch16_224(**kwargs):
    return VisionTransformerDistilled(**{"embed_dim": 192, "num_heads": 3, **kwargs})


@register(timms=True)
def deit_small_distilled_patch16_224(**kwargs):
    return VisionTransformerDistilled(**{"embed_dim": 384, "num_heads": 6, **kwargs})


@register(timms=True)
def deit_base_distilled_patch16_224(**kwargs):
    return VisionTransformerDistilled(**{"embed_dim": 768, "num_heads": 12, **kwargs})
