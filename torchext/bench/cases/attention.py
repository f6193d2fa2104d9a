"""Attention: ViT-B's and Swin-T's at batch 1 and 8, and a long one, f32 and bf16.

Necessary work: forward reads q, k and v and writes y. Backward reads those, y and dy, and writes
dq, dk and dv; it makes the scores again, so its five products count against forward's two.
"""

import functools

import torch
import torch.nn.functional as F

from ..case import SHORT, SIZE, Case

# (model, heads, tokens, columns of a head)
PLAIN = [("vit_b_16", 12, 197, 64), ("long", 12, 1024, 64)]
PACKED = [("vit_b_16", 12, 197, 64)]
# (model, heads, height = width, columns of a head); windows of 7 x 7, every other layer's shifted.
WINDOWS = [("swin_t", 3, 56, 32), ("swin_t", 6, 28, 32), ("swin_t", 12, 14, 32)]
WINDOW, SHIFT = (7, 7), (3, 3)


def cases():
    return [
        case(*layer, batch, dtype, training)
        for case, layers in ((_plain, PLAIN), (_packed, PACKED), (_windows, WINDOWS))
        for layer in layers
        for batch in (1, 8)
        for dtype in SIZE
        for training in (False, True)
    ]


def _case(op, how, elements, scores, D, batch, dtype, training, quick, **functions):
    """`elements` of y; so many `scores`, each of two products with D columns."""
    return Case(
        name=f"{op}/{how}/b{batch}/{SHORT[dtype]}" + ("/train" if training else ""),
        family=op + ("_train" if training else ""),
        bytes=elements * SIZE[dtype] * (12 if training else 4),
        flops=scores * D * (14 if training else 4),
        sum_length=scores * D // elements,
        dtype=dtype,
        layout="contiguous",
        batch=batch,
        training=training,
        quick=quick and batch == 1 and not training,
        **functions,
    )


def _plain(model, heads, N, D, batch, dtype, training):
    shape = batch, heads, N, D
    return _case(
        "scaled_dot_product_attention",
        f"{model}-{heads}x{N}x{D}",
        *(batch * heads * N * D, batch * heads * N * N, D, batch, dtype, training),
        model == "vit_b_16",
        make_inputs=lambda generator: [torch.randn(shape, generator=generator) for _ in range(3)],
        reference=lambda: F.scaled_dot_product_attention,
        ours=lambda: _torchext("scaled_dot_product_attention"),
    )


def _packed(model, heads, N, D, batch, dtype, training):
    shape = batch, N, 3, heads, D
    return _case(
        "attention_qkv",
        f"{model}-{heads}x{N}x{D}",
        *(batch * heads * N * D, batch * heads * N * N, D, batch, dtype, training),
        True,
        make_inputs=lambda generator: [torch.randn(shape, generator=generator)],
        reference=lambda: _unpacked,
        ours=lambda: _torchext("attention_qkv"),
    )


def _unpacked(qkv):
    y = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
    return y.transpose(1, 2).flatten(2)


def _windows(model, heads, size, D, batch, dtype, training):
    from torchext.nn.attention import _relative_position_index

    index, (h, w) = _relative_position_index(*WINDOW), WINDOW
    pixels = batch * size * size

    def make_inputs(generator):
        qkv = torch.randn(batch, size, size, 3 * heads * D, generator=generator)
        return qkv, torch.randn((2 * h - 1) * (2 * w - 1), heads, generator=generator), index

    how = {"window_size": WINDOW, "shift_size": SHIFT}
    return _case(
        "window_attention",
        f"{model}-{heads}x{size}x{size}x{D}",
        *(pixels * heads * D, pixels * heads * h * w, D, batch, dtype, training),
        size == 56,
        make_inputs=make_inputs,
        reference=lambda: _swin,
        ours=lambda: functools.partial(_torchext("window_attention"), **how),
    )


def _partition(image):
    """[B, H, W, C] as [B * windows, N, C]."""
    (B, H, W, C), (h, w) = image.shape, WINDOW
    return image.view(B, H // h, h, W // w, w, C).transpose(2, 3).reshape(-1, h * w, C)


def _swin(qkv, table, index):
    """Roll, partition, attend with a bias and a mask, reverse, roll back: as models have it."""
    (B, H, W, C), (h, w), heads = qkv.shape, WINDOW, table.shape[1]
    N, C = h * w, C // 3
    windows = _partition(qkv.roll([-s for s in SHIFT], (1, 2)))
    q, k, v = windows.view(-1, N, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
    y, x = (torch.arange(n, device=qkv.device) >= n - s for n, s in zip((H, W), SHIFT, strict=True))
    regions = _partition((2 * y[:, None] + x).view(1, H, W, 1))
    mask = torch.zeros(len(regions), 1, N, N, dtype=qkv.dtype, device=qkv.device)
    mask = mask.masked_fill((regions != regions.mT).unsqueeze(1), -100)
    mask = mask + table[index].view(N, N, heads).permute(2, 0, 1)
    attended = F.scaled_dot_product_attention(q, k, v, mask.repeat(B, 1, 1, 1))
    image = attended.transpose(1, 2).reshape(B, H // h, W // w, h, w, C).transpose(2, 3)
    return image.reshape(B, H, W, C).roll(SHIFT, (1, 2))


def _torchext(op):
    import torchext.nn.functional

    return getattr(torchext.nn.functional, op)
