"""Vision transformers, as in torchvision."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from .. import nn as tn
from ._registry import register
from ._transformer import MLP, Blocks, Transformer
from ._vit_keys import vit_to_torchvision


class ConvStemConfig(NamedTuple):
    out_channels: int
    kernel_size: int
    stride: int
    norm_layer: type = tn.BatchNorm2d
    activation_layer: type = tn.ReLU


class EncoderBlock(nn.Module):
    def __init__(self, num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer):
        super().__init__()
        self.ln_1 = norm_layer(hidden_dim)
        self.self_attention = tn.MultiheadAttention(
            hidden_dim, num_heads, attention_dropout, batch_first=True
        )
        self.dropout = tn.Dropout(dropout)
        self.ln_2 = norm_layer(hidden_dim)
        self.mlp = MLP(hidden_dim, mlp_dim, dropout)

    def forward(self, input):
        _assert_tokens(input)
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.dropout(x) + input
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    def __init__(self, seq_length, num_layers, hidden_dim, dropout, norm_layer, make_block):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, seq_length, hidden_dim).normal_(std=0.02))
        self.dropout = tn.Dropout(dropout)
        self.layers = Blocks()
        for i in range(num_layers):
            self.layers.add_module(f"encoder_layer_{i}", make_block())
        self.ln = norm_layer(hidden_dim)

    def embed(self, x):
        _assert_tokens(x)
        return self.dropout(x + self.pos_embedding)

    def forward(self, x):
        return self.ln(self.layers(self.embed(x)))


def _assert_tokens(x):
    torch._assert(x.dim() == 3, f"encoder: got {x.shape}, expected [batch, tokens, channels]")


class VisionTransformer(Transformer):
    classifier_name = "heads.head"
    global_pools = ("token",)

    def __init__(
        self,
        image_size,
        patch_size,
        num_layers,
        num_heads,
        hidden_dim,
        mlp_dim,
        dropout=0.0,
        attention_dropout=0.0,
        num_classes=1000,
        representation_size=None,
        norm_layer=None,
        conv_stem_configs=None,
        in_chans=3,
    ):
        super().__init__()
        if image_size % patch_size != 0:
            raise ValueError(
                f"VisionTransformer: image_size: got {image_size}, expected a multiple of"
                f" patch_size, {patch_size}"
            )
        norm_layer = norm_layer or partial(tn.LayerNorm, eps=1e-6)
        self.image_size, self.patch_size = image_size, patch_size
        self.hidden_dim, self.mlp_dim = hidden_dim, mlp_dim
        self.num_classes, self.representation_size = num_classes, representation_size
        if conv_stem_configs is None:
            self.conv_proj = tn.Conv2d(in_chans, hidden_dim, patch_size, patch_size)
        else:
            self.conv_proj = _conv_stem(in_chans, hidden_dim, conv_stem_configs)
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        self.seq_length = 1 + (image_size // patch_size) ** 2
        block = (num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer)
        self.encoder = Encoder(
            *(self.seq_length, num_layers, hidden_dim, dropout, norm_layer),
            partial(EncoderBlock, *block),
        )
        self.heads = nn.Sequential()
        self.num_features = hidden_dim
        if representation_size is not None:
            self.num_features = representation_size
            self.heads.add_module("pre_logits", tn.Linear(hidden_dim, representation_size))
            self.heads.add_module("act", tn.Tanh())
        self.heads.add_module("head", tn.Linear(self.num_features, num_classes))
        self.feature_info = [
            {"num_chs": hidden_dim, "reduction": patch_size, "module": f"encoder.layers.{name}"}
            for name, _ in self.encoder.layers.named_children()
        ]
        self._initialise()

    def _initialise(self):
        if isinstance(self.conv_proj, nn.Conv2d):
            conv, std = self.conv_proj, math.sqrt(1 / self.conv_proj.weight[0].numel())
            nn.init.trunc_normal_(conv.weight, std=std)
        else:
            conv = self.conv_proj.conv_last
            nn.init.normal_(conv.weight, std=math.sqrt(2 / conv.out_channels))
        nn.init.zeros_(conv.bias)
        if self.representation_size is not None:
            layer = self.heads.pre_logits
            nn.init.trunc_normal_(layer.weight, std=math.sqrt(1 / layer.in_features))
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.heads.head.weight)
        nn.init.zeros_(self.heads.head.bias)

    def _tokens(self, x):
        N, _, H, W = x.shape
        size = self.image_size
        for axis, got in (("height", H), ("width", W)):
            torch._assert(got == size, f"VisionTransformer: {axis}: got {got}, expected {size}")
        h, w = H // self.patch_size, W // self.patch_size
        x = self.conv_proj(x).reshape(N, self.hidden_dim, h * w).permute(0, 2, 1)
        N = x.shape[0]  # for torch.fx the same nodes as torchvision's
        return torch.cat([self.class_token.expand(N, -1, -1), x], 1)

    def stages(self, x):
        return self.encoder.layers.each(self.encoder.embed(self._tokens(x)))

    def as_map(self, x):
        side = self.image_size // self.patch_size
        return x[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)

    def finish(self, x):
        return self.encoder.ln(x)

    def forward_features(self, x):
        return self.encoder(self._tokens(x))

    def forward_head(self, x, pre_logits=False):
        x = x[:, 0]
        return self.heads[:-1](x) if pre_logits else self.heads(x)

    def no_weight_decay(self):
        return {"class_token", "encoder.pos_embedding"}

    def group_matcher(self, coarse=False):
        return {
            "stem": r"^class_token|^conv_proj|^encoder\.pos_embedding",
            "blocks": [
                (r"^encoder\.layers\.encoder_layer_(\d+)", None),
                (r"^encoder\.ln", (99999,)),
            ],
        }

    def converted(self, state):
        return vit_to_torchvision(state)


def _conv_stem(channels, hidden_dim, configs):
    stem = nn.Sequential()
    for i, config in enumerate(configs):
        conv = tn.Conv2d(
            *(channels, config.out_channels, config.kernel_size, config.stride),
            padding=(config.kernel_size - 1) // 2,
            bias=config.norm_layer is None,
        )
        layers = [conv]
        if config.norm_layer is not None:
            layers.append(config.norm_layer(config.out_channels))
        if config.activation_layer is not None:
            layers.append(config.activation_layer(inplace=True))
        stem.add_module(f"conv_bn_relu_{i}", nn.Sequential(*layers))
        channels = config.out_channels
    stem.add_module("conv_last", tn.Conv2d(channels, hidden_dim, 1))
    return stem


def resample_positions(table, others, grid, **how):
    """A table [1, others + h * h, C] of positions for another grid of patches.

    others  rows at its start, which stand for no place
    how     what torch.nn.functional.interpolate takes
    """
    places = table.shape[1] - others
    side = math.isqrt(places)
    if side * side != places:
        raise ValueError(
            f"resample_positions: got {places} places beside {others} other tokens, expected a"
            " square number"
        )
    x = table[:, others:].transpose(1, 2).unflatten(2, (side, side))
    x = nn.functional.interpolate(x.float(), grid, **how).to(table.dtype)
    return torch.cat([table[:, :others], x.flatten(2).transpose(1, 2)], 1)


def interpolate_embeddings(
    image_size, patch_size, model_state, interpolation_mode="bicubic", reset_heads=False
):
    """A state dict for images of another size; without its heads if they are to be learned anew."""
    name, side = "encoder.pos_embedding", image_size // patch_size
    state, table = vit_to_torchvision(model_state), vit_to_torchvision(model_state)[name]
    if table.shape[1] == 1 + side * side:
        return state
    state[name] = resample_positions(
        table, 1, (side, side), mode=interpolation_mode, align_corners=True
    )
    return {k: x for k, x in state.items() if not (reset_heads and k.startswith("heads"))}


def _vit(patch_size, num_layers, num_heads, hidden_dim, image_size=224, **kwargs):
    sizes = (image_size, patch_size, num_layers, num_heads, hidden_dim, 4 * hidden_dim)
    return VisionTransformer(*sizes, **kwargs)


_register = register(image_size=lambda weights: weights.meta["min_size"][0])


@_register
def vit_b_16(**kwargs):
    return _vit(16, 12, 12, 768, **kwargs)


@_register
def vit_b_32(**kwargs):
    return _vit(32, 12, 12, 768, **kwargs)


@_register
def vit_l_16(**kwargs):
    return _vit(16, 24, 16, 1024, **kwargs)


@_register
def vit_l_32(**kwargs):
    return _vit(32, 24, 16, 1024, **kwargs)


@_register
def vit_h_14(**kwargs):
    return _vit(14, 32, 16, 1280, **kwargs)
