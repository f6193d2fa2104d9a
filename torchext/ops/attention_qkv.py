"""attention_qkv: attention of packed [B, N, 3, H, D], as a linear layer makes it."""

import torch

from . import attention as _attention
from ._dense import compute_dtype
from ._op import Op, check
from .attention import check_companion, check_mask, check_rows


def _unpacked(qkv):
    return qkv.permute(2, 0, 3, 1, 4).unbind()


def _split(y, qkv):
    """[B, N, H * D] as [B, H, N, D]."""
    return y.unflatten(-1, qkv.shape[3:]).transpose(1, 2)


def merged(y):
    return y.transpose(1, 2).flatten(2)


def _decomposition(qkv, mask, is_causal, scale):
    y, logsumexp = _attention.decomposition(*_unpacked(qkv), mask, is_causal, scale, False)
    return merged(y), logsumexp


def _decomposition_inference(*args):
    return _decomposition(*args)[0]


def _decomposition_backward(
    grad_y, grad_logsumexp, qkv, mask, y, logsumexp, is_causal, scale, mask_grad
):
    *grads, grad_mask = _attention.decomposition_backward(
        *(_split(grad_y, qkv), grad_logsumexp, *_unpacked(qkv), mask, _split(y, qkv), logsumexp),
        *(is_causal, scale, False, 0.0, 0, mask_grad),
    )
    return torch.stack(grads).permute(1, 3, 0, 2, 4).contiguous(), grad_mask


def _check(op, qkv, mask):
    check(qkv.is_floating_point(), op, "qkv", qkv.dtype, "a floating dtype")
    packed = qkv.dim() == 5 and qkv.shape[2] == 3
    check(packed, op, "qkv", list(qkv.shape), "[batch, length, 3, heads, channels]")
    check(qkv.shape[4] > 0, op, "qkv", "0 channels", "at least 1")
    B, N, _, H, _ = qkv.shape
    check_mask(op, mask, qkv, [B, H, N, N])


def _y_shape(qkv):
    B, N, _, H, D = qkv.shape
    return B, N, H * D


def _fake_inference(qkv, mask, is_causal, scale):
    _check("attention_qkv", qkv, mask)
    return qkv.new_empty(_y_shape(qkv))


def _fake(qkv, *args):
    y = _fake_inference(qkv, *args)
    B, N, _, H, _ = qkv.shape
    return y, qkv.new_empty((B, H, N), dtype=compute_dtype(qkv))


def _fake_backward(grad_y, grad_logsumexp, qkv, mask, y, logsumexp, is_causal, scale, mask_grad):
    op = "attention_qkv_backward"
    _check(op, qkv, mask)
    check_companion(op, "grad_y", grad_y, qkv, _y_shape(qkv))
    check_companion(op, "y", y, qkv, _y_shape(qkv))
    B, N, _, H, _ = qkv.shape
    check_rows(op, qkv, (B, H, N), logsumexp, grad_logsumexp)
    return qkv.new_empty(qkv.shape), _attention.empty_mask_gradient(op, qkv, mask, mask_grad)


def _save(ctx, inputs, output):
    qkv, mask, *ctx.arguments = inputs
    ctx.save_for_backward(qkv, mask, *output)


def _backward(ctx, grad_y, grad_logsumexp):
    mask_grad = ctx.needs_input_grad[1]
    grad_qkv, grad_mask = attention_qkv_backward(
        *(grad_y, grad_logsumexp, *ctx.saved_tensors, *ctx.arguments, mask_grad),
        namespace=ctx.namespace,
    )
    return grad_qkv, grad_mask if mask_grad else None, None, None


def _flops(qkv, *args):
    B, N, _, H, D = qkv
    return 4 * B * H * N * N * D


def _flops_backward(grad_y, grad_logsumexp, qkv, *args):
    return _flops(qkv) * 5 // 2


_SHARED = {"batched": (), "sharded_dims": ()}  # as for attention's mask

attention_qkv_inference = Op(
    name="attention_qkv_inference",
    decomposition=_decomposition_inference,
    fake=_fake_inference,
    autocast=("qkv", "mask"),
    flops=_flops,
    **_SHARED,
)
attention_qkv = Op(
    name="attention_qkv",
    decomposition=_decomposition,
    fake=_fake,
    save=_save,
    backward=_backward,
    autocast=("qkv", "mask"),
    flops=_flops,
    **_SHARED,
)
attention_qkv_backward = Op(
    name="attention_qkv_backward",
    decomposition=_decomposition_backward,
    fake=_fake_backward,
    flops=_flops_backward,
    **_SHARED,
)
