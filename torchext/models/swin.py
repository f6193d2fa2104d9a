"""Swin transformers, as in torchvision: attention within windows, which are shifted in turn."""

from functools import partial

import torch
from torch import nn

from .. import nn as tn
from ._registry import register
from ._transformer import MLP, Blocks, Permute, StochasticDepth, Transformer, rising
from ._vit_keys import swin_to_torchvision


def _patch_merging_pad(x):
    """[..., H, W, C] as [..., H / 2, W / 2, 4 * C], with zeros where H or W is odd."""
    H, W = x.shape[-3:-1]
    x = nn.functional.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    return torch.cat([x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1)], -1)


torch.fx.wrap("_patch_merging_pad")  # one node, and under torchvision's name


class PatchMerging(nn.Module):
    def __init__(self, dim, norm_layer=tn.LayerNorm):
        super().__init__()
        self.reduction = tn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x):
        return self.reduction(self.norm(_patch_merging_pad(x)))


class SwinTransformerBlock(nn.Module):
    def __init__(
        self,
        dim,
        num_heads,
        window_size,
        shift_size,
        mlp_ratio=4.0,
        dropout=0.0,
        attention_dropout=0.0,
        stochastic_depth_prob=0.0,
        norm_layer=tn.LayerNorm,
        attn_layer=tn.WindowAttention,
    ):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = attn_layer(
            *(dim, window_size, shift_size, num_heads),
            attention_dropout=attention_dropout,
            dropout=dropout,
        )
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)
        self.norm2 = norm_layer(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x):
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))


class SwinTransformer(Transformer):
    classifier_name = "head"

    def __init__(
        self,
        patch_size,
        embed_dim,
        depths,
        num_heads,
        window_size,
        mlp_ratio=4.0,
        dropout=0.0,
        attention_dropout=0.0,
        stochastic_depth_prob=0.1,
        num_classes=1000,
        norm_layer=None,
        block=None,
        downsample_layer=PatchMerging,
        in_chans=3,
    ):
        super().__init__()
        block = block or SwinTransformerBlock
        norm_layer = norm_layer or partial(tn.LayerNorm, eps=1e-5)
        patch_size = tuple(patch_size)
        patches = tn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        layers = [nn.Sequential(patches, Permute([0, 2, 3, 1]), norm_layer(embed_dim))]
        self.feature_info = []
        drop = rising(stochastic_depth_prob, sum(depths))
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim = embed_dim * 2**i
            if i > 0:
                layers.append(downsample_layer(dim // 2, norm_layer))
            blocks = (
                block(
                    *(dim, heads),
                    window_size=window_size,
                    shift_size=[j % 2 * (w // 2) for w in window_size],
                    mlp_ratio=mlp_ratio,
                    dropout=dropout,
                    attention_dropout=attention_dropout,
                    stochastic_depth_prob=next(drop),
                    norm_layer=norm_layer,
                )
                for j in range(depth)
            )
            self.feature_info.append(
                {
                    "num_chs": dim,
                    "reduction": max(patch_size) * 2**i,
                    "module": f"features.{len(layers)}",
                }
            )
            layers.append(Blocks(*blocks))
        self.features = nn.Sequential(*layers)
        self.num_classes, self.num_features = num_classes, dim
        self.norm = norm_layer(dim)
        self.permute = Permute([0, 3, 1, 2])
        self.avgpool = tn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.head = tn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def stages(self, x):
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, Blocks):
                yield x

    def as_map(self, x):
        return self.permute(x)

    def finish(self, x):
        return self.norm(x)

    def forward_features(self, x):
        return self.norm(self.features(x))

    def forward_head(self, x, pre_logits=False):
        x = self.flatten(self.avgpool(self.permute(x)))
        return x if pre_logits else self.head(x)

    def no_weight_decay(self):
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if name.endswith("relative_position_bias_table")}

    def group_matcher(self, coarse=False):
        """As timm's: a merging of patches belongs to what follows it."""
        first, block = ((), "") if coarse else ((0,), r"(\d+)\.")
        mergings = [
            (rf"^features\.{i - 1}\.", (i, *first)) for i in range(3, len(self.features), 2)
        ]
        last = [] if coarse else [(r"^norm", (99999,))]
        blocks = [*mergings, (r"^features\.(\d+)\." + block, None), *last]
        return {"stem": r"^features\.0\.", "blocks": blocks}

    def converted(self, state):
        new = swin_to_torchvision(state)
        return new if new is state else {**dict(self.named_buffers()), **new}


def _swin(embed_dim, depths, num_heads, stochastic_depth_prob, **kwargs):
    return SwinTransformer(
        **{
            "patch_size": [4, 4],
            "embed_dim": embed_dim,
            "depths": depths,
            "num_heads": num_heads,
            "window_size": [7, 7],
            "stochastic_depth_prob": stochastic_depth_prob,
            **kwargs,
        }
    )


@register()
def swin_t(**kwargs):
    return _swin(96, [2, 2, 6, 2], [3, 6, 12, 24], 0.2, **kwargs)


@register()
def swin_s(**kwargs):
    return _swin(96, [2, 2, 18, 2], [3, 6, 12, 24], 0.3, **kwargs)


@register()
def swin_b(**kwargs):
    return _swin(128, [2, 2, 18, 2], [4, 8, 16, 32], 0.5, **kwargs)
