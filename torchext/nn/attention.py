"""Attention modules."""

import torch
from torch import nn

from .._fallback import notice
from ..ops import window_attention as _windows
from . import functional as F
from .linear import Linear


class MultiheadAttention(nn.MultiheadAttention):
    def forward(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        need_weights=True,
        attn_mask=None,
        average_attn_weights=True,
        is_causal=False,
    ):
        nested = query.is_nested or key.is_nested or value.is_nested
        if nested or (is_causal and attn_mask is None):  # the latter torch refuses
            if nested:
                notice("MultiheadAttention", "no kernel for nested tensors")
            return super().forward(
                *(query, key, value, key_padding_mask, need_weights, attn_mask),
                *(average_attn_weights, is_causal),
            )
        if is_causal and key_padding_mask is None and not need_weights:
            attn_mask = None  # is_causal says what is in it
        else:
            is_causal = False
        mask = self._mask(query, key, value, key_padding_mask, attn_mask)
        batched = query.dim() == 3
        if not batched:
            query, key, value = _each(lambda x: x.unsqueeze(0), query, key, value)
        elif not self.batch_first:
            query, key, value = _each(lambda x: x.transpose(0, 1), query, key, value)
        y, weights = self._attend(query, key, value, mask, is_causal, need_weights)
        y = F.linear(y, self.out_proj.weight, self.out_proj.bias)
        if need_weights and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), weights.squeeze(0) if need_weights else None
        return y if self.batch_first else y.transpose(0, 1), weights

    def _mask(self, query, key, value, key_padding_mask, attn_mask):
        """Both masks as one for [batch, heads, query, key]: boolean if it may be, True for seen."""
        nn.functional._mha_shape_check(
            query, key, value, key_padding_mask, attn_mask, self.num_heads
        )
        more = (self.bias_k is not None) + self.add_zero_attn  # keys that all see
        masks = []
        if attn_mask is not None:
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
            masks.append(attn_mask)
        if key_padding_mask is not None:
            padding = key_padding_mask if key_padding_mask.dim() == 2 else key_padding_mask[None]
            masks.append(padding[:, None, None])
        if not masks:
            return None
        masks = [nn.functional.pad(mask, (0, more)) for mask in masks] if more else masks
        if all(mask.dtype == torch.bool for mask in masks):
            return ~(masks[0] | masks[-1])
        first, *rest = (
            torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -torch.inf)
            if mask.dtype == torch.bool
            else mask
            for mask in masks
        )
        return first + rest[0] if rest else first

    def _attend(self, query, key, value, mask, is_causal, need_weights):
        """([batch, length, embed_dim] before the output's projection, weights or None)"""
        heads = self.num_heads, self.head_dim
        dropout = self.dropout if self.training else 0.0
        packed = query is key and key is value and self._qkv_same_embed_dim
        plain = self.bias_k is None and not self.add_zero_attn and dropout == 0
        if packed and plain and not need_weights:
            qkv = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            return F.attention_qkv(qkv.unflatten(2, (3, *heads)), mask, is_causal), None
        if self._qkv_same_embed_dim:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = map(F.linear, (query, key, value), weights, biases)
        if self.bias_k is not None:
            k, v = (
                torch.cat([x, b.expand(len(x), 1, -1)], 1)
                for x, b in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = (nn.functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
        q, k, v = (x.unflatten(2, heads).transpose(1, 2) for x in (q, k, v))
        weights = None
        if need_weights:  # which the kernel never keeps
            weights = F.dropout(_weights(q, k, mask), dropout, dropout > 0)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        return y.transpose(1, 2).flatten(2), weights


def _weights(q, k, mask):
    scores = q * q.shape[-1] ** -0.5 @ k.mT
    if mask is not None:
        boolean = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -torch.inf) if boolean else scores + mask
    return F.softmax(scores, -1)


def _each(view, query, key, value):
    """A view of each; of one tensor that is all three, one view: it must be seen to be the same."""
    if query is key and key is value:
        return (view(query),) * 3
    return view(query), view(key), view(value)


class WindowAttention(nn.Module):
    """Swin's attention within shifted windows of an image [B, H, W, C], which is padded to whole
    ones; constructor and state dict are those of torchvision's ShiftedWindowAttention."""

    def __init__(
        self,
        dim,
        window_size,
        shift_size,
        num_heads,
        qkv_bias=True,
        proj_bias=True,
        attention_dropout=0.0,
        dropout=0.0,
    ):
        super().__init__()
        if len(window_size) != 2 or len(shift_size) != 2:
            raise ValueError("window_size and shift_size must be of length 2")
        self.window_size, self.shift_size = list(window_size), list(shift_size)
        self.num_heads = num_heads
        self.attention_dropout, self.dropout = attention_dropout, dropout
        self.qkv = Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = Linear(dim, dim, bias=proj_bias)
        h, w = window_size
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * h - 1) * (2 * w - 1), num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_position_index(h, w))

    def forward(self, x):
        H, W = x.shape[1:3]
        h, w = self.window_size
        padded = -(-H // h) * h, -(-W // w) * w
        # A window as large as the image has nothing to be shifted to.
        shift = [
            0 if size <= window else s
            for s, size, window in zip(self.shift_size, padded, self.window_size, strict=True)
        ]
        if padded != (H, W):
            x = nn.functional.pad(x, (0, 0, 0, padded[1] - W, 0, padded[0] - H))
        y = self._attend(self.qkv(x), shift)[:, :H, :W]
        return nn.functional.dropout(self.proj(y), self.dropout, self.training)

    def _attend(self, qkv, shift):
        arguments = (
            *(qkv, self.relative_position_bias_table, self.relative_position_index),
            *(self.window_size, shift),
        )
        if not (self.training and self.attention_dropout > 0):
            return F.window_attention(*arguments)

        def attend(q, k, v, mask, *rest):
            mask = mask.to(q.dtype)
            return F.scaled_dot_product_attention(q, k, v, mask, self.attention_dropout), None

        return _windows.run(attend, *arguments, None)[0]


def _relative_position_index(h, w):
    """Which row of the table stands for pixels i and j of a window, by their distance."""
    at = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
    apart = at[:, :, None] - at[:, None]
    return ((apart[0] + h - 1) * (2 * w - 1) + apart[1] + w - 1).flatten()
