"""window_attention (Swin): attention in windows of an image [B, H, W, 3 * C] rolled by `shift`.

Heads are the table's columns. A window's pixels i and j add table[index[i, j]] to their scores;
pixels that are neighbours only since the image was rolled, -100, as in torchvision.
"""

import math

import torch

from . import attention as _attention
from ._dense import compute_dtype
from ._op import Op, check
from .attention import check_companion, check_rows


def _pixels(qkv, window_size, shift_size=(0, 0)):
    """(row, column) in the image of each window's pixels: [windows, N] each."""
    (h, w), (H, W) = window_size, qkv.shape[1:3]
    window = torch.arange(H * W // (h * w), device=qkv.device).unsqueeze(1)
    place = torch.arange(h * w, device=qkv.device)
    row = window // (W // w) * h + place // w + shift_size[0]
    column = window % (W // w) * w + place % w + shift_size[1]
    return row % H, column % W


def _places(qkv, window_size, shift_size):
    """(window, place in it) of each of the image's pixels: [H, W] each."""
    (h, w), (H, W) = window_size, qkv.shape[1:3]
    row = (torch.arange(H, device=qkv.device).unsqueeze(1) - shift_size[0]) % H
    column = (torch.arange(W, device=qkv.device) - shift_size[1]) % W
    return row // h * (W // w) + column // w, row % h * w + column % w


def _windows_of(x, pixels, *heads):
    """[B, H, W, heads * D] as [B, windows, heads, N, D]; of (3, heads) channels, three of them."""
    row, column = pixels
    x = x[:, row, column].unflatten(3, (*heads, x.shape[3] // math.prod(heads)))
    return x.movedim(2, -2) if len(heads) == 1 else x.permute(3, 0, 1, 4, 2, 5).unbind()


def _image_of(windows, places):
    window, place = places
    return windows.movedim(-2, 2)[:, window, place].flatten(3)


def _mask(qkv, table, index, window_size, shift_size):
    """What is added to scores: [windows, heads, N, N], or [heads, N, N] without a shift."""
    N, heads = window_size[0] * window_size[1], table.shape[1]
    bias = table.to(compute_dtype(table))[index.reshape(-1)].view(N, N, heads).permute(2, 0, 1)
    if not any(shift_size):
        return bias
    row, column = _pixels(qkv, window_size)  # of the rolled image
    H, W = qkv.shape[1:3]
    regions = 2 * (row >= H - shift_size[0]) + (column >= W - shift_size[1])
    apart = regions[:, None, :, None] != regions[:, None, None]
    return bias + torch.zeros_like(apart, dtype=bias.dtype).masked_fill(apart, -100)


def run(attend, qkv, table, index, window_size, shift_size, scale):
    """The op, for an attention that takes (query, key, value, mask, is_causal, scale, gqa)."""
    mask = _mask(qkv, table, index, window_size, shift_size)
    pixels = _pixels(qkv, window_size, shift_size)
    q, k, v = _windows_of(qkv, pixels, 3, table.shape[1])
    y, logsumexp = attend(q, k, v, mask, False, scale, False)
    return _image_of(y, _places(qkv, window_size, shift_size)), logsumexp


def run_backward(
    differentiate,
    grad_y,
    grad_logsumexp,
    qkv,
    table,
    index,
    y,
    logsumexp,
    window_size,
    shift_size,
    scale,
):
    heads = table.shape[1]
    mask = _mask(qkv, table, index, window_size, shift_size)
    pixels = _pixels(qkv, window_size, shift_size)
    grad_y, y = (_windows_of(x, pixels, heads) for x in (grad_y, y))
    *grads, grad_bias = differentiate(
        *(grad_y, grad_logsumexp, *_windows_of(qkv, pixels, 3, heads), mask),
        *(y, logsumexp, False, scale, False, 0.0, 0, True),
    )
    if any(shift_size):
        grad_bias = grad_bias.sum(0)
    grad_qkv = _image_of(torch.stack(grads, 2), _places(qkv, window_size, shift_size))
    sums = torch.zeros_like(table, dtype=grad_bias.dtype, memory_format=torch.contiguous_format)
    sums = sums.index_add(0, index.reshape(-1), grad_bias.flatten(1).mT)
    return grad_qkv, sums.to(table.dtype)


def _decomposition(*args):
    return run(_attention.decomposition, *args)


def _decomposition_inference(*args):
    return _decomposition(*args)[0]


def _decomposition_backward(*args):
    return run_backward(_attention.decomposition_backward, *args)


def _check(op, qkv, table, index, window_size, shift_size):
    check(qkv.is_floating_point(), op, "qkv", qkv.dtype, "a floating dtype")
    check_companion(op, "table", table, qkv)
    check(index.device == qkv.device, op, "index", index.device, f"the qkv's, {qkv.device}")
    check(qkv.dim() == 4, op, "qkv", f"{qkv.dim()} dimensions", "4 (B, H, W, 3 * C)")
    good = table.dim() == 2 and table.shape[1] > 0
    check(good, op, "table", list(table.shape), "[entries, heads]")
    heads, channels = table.shape[1], qkv.shape[3]
    good = channels > 0 and channels % (3 * heads) == 0
    check(good, op, "qkv", f"{channels} channels", f"3 * heads * a multiple, of heads {heads}")
    for argument, pair, least in (("window_size", window_size, 1), ("shift_size", shift_size, 0)):
        good = len(pair) == 2 and min(pair) >= least
        check(good, op, argument, list(pair), f"two numbers of at least {least}")
    good = shift_size[0] < window_size[0] and shift_size[1] < window_size[1]
    check(good, op, "shift_size", list(shift_size), "less than the window")
    H, W = qkv.shape[1:3]
    whole = H % window_size[0] == 0 and W % window_size[1] == 0
    check(whole, op, "qkv", f"an image of {H} x {W}", f"whole windows of {list(window_size)}")
    N = window_size[0] * window_size[1]
    check(index.dtype == torch.int64, op, "index", index.dtype, "torch.int64")
    check(index.numel() == N * N, op, "index", f"{index.numel()} elements", f"{N} * {N}")


def _shapes(qkv, table, window_size):
    """Of y and of logsumexp."""
    B, H, W, channels = qkv.shape
    windows = (H // window_size[0]) * (W // window_size[1])
    rows = B, windows, table.shape[1], window_size[0] * window_size[1]
    return (B, H, W, channels // 3), rows


def _fake_inference(qkv, table, index, window_size, shift_size, scale):
    _check("window_attention", qkv, table, index, window_size, shift_size)
    return qkv.new_empty(_shapes(qkv, table, window_size)[0])


def _fake(qkv, table, index, window_size, *args):
    y = _fake_inference(qkv, table, index, window_size, *args)
    return y, qkv.new_empty(_shapes(qkv, table, window_size)[1], dtype=compute_dtype(qkv))


def _fake_backward(
    grad_y, grad_logsumexp, qkv, table, index, y, logsumexp, window_size, shift_size, scale
):
    op = "window_attention_backward"
    _check(op, qkv, table, index, window_size, shift_size)
    y_shape, rows = _shapes(qkv, table, window_size)
    check_companion(op, "grad_y", grad_y, qkv, y_shape)
    check_companion(op, "y", y, qkv, y_shape)
    check_rows(op, qkv, rows, logsumexp, grad_logsumexp)
    return qkv.new_empty(qkv.shape), table.new_empty(table.shape)


def _save(ctx, inputs, output):
    *tensors, ctx.window_size, ctx.shift_size, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, grad_y, grad_logsumexp):
    arguments = ctx.window_size, ctx.shift_size, ctx.scale
    grad_qkv, grad_table = window_attention_backward(
        grad_y, grad_logsumexp, *ctx.saved_tensors, *arguments, namespace=ctx.namespace
    )
    return grad_qkv, grad_table, None, None, None, None


def _flops(qkv, table, index, window_size, *args):
    B, H, W, channels = qkv
    return 4 * B * H * W * window_size[0] * window_size[1] * (channels // 3)


def _flops_backward(grad_y, grad_logsumexp, qkv, table, index, y, logsumexp, window_size, *args):
    return _flops(qkv, table, index, window_size) * 5 // 2


_SHARED = {"batched": (), "sharded_dims": ()}  # the table's gradient is summed over the batch

window_attention_inference = Op(
    name="window_attention_inference",
    decomposition=_decomposition_inference,
    fake=_fake_inference,
    autocast=("qkv", "table"),
    flops=_flops,
    **_SHARED,
)
window_attention = Op(
    name="window_attention",
    decomposition=_decomposition,
    fake=_fake,
    save=_save,
    backward=_backward,
    autocast=("qkv", "table"),
    flops=_flops,
    **_SHARED,
)
window_attention_backward = Op(
    name="window_attention_backward",
    decomposition=_decomposition_backward,
    fake=_fake_backward,
    flops=_flops_backward,
    **_SHARED,
)
