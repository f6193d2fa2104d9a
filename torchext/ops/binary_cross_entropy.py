"""binary_cross_entropy of probabilities or logits, element by element; a mean or sum is torch's."""

import torch

from ._dense import check_dtype, check_like, compute_dtype, empty_as
from ._op import Op, check


def _wide(x, *tensors):
    return [None if t is None else t.to(compute_dtype(x)) for t in tensors]


def _binary_cross_entropy(x, target, weight, pos_weight, logits):
    wide, t, w, q = _wide(x, x, target, weight, pos_weight)
    if logits:
        q = 1 if q is None else 1 + (q - 1) * t
        loss = (1 - t) * wide + q * (torch.log1p(torch.exp(-wide.abs())) - wide.clamp(max=0))
    else:
        loss = (t - 1) * torch.log1p(-wide).clamp(min=-100) - t * wide.log().clamp(min=-100)
    return (loss if w is None else loss * w).to(x.dtype)


def _binary_cross_entropy_backward(grad_loss, x, target, weight, pos_weight, logits):
    wide, t, w, q, g = _wide(x, x, target, weight, pos_weight, grad_loss)
    if logits:
        slope = 1 - t - (1 if q is None else 1 + (q - 1) * t) * torch.sigmoid(-wide)
    else:
        slope = (wide - t) / ((1 - wide) * wide).clamp(min=1e-12)
    return (g * slope if w is None else g * slope * w).to(x.dtype)


def _fake(x, target, weight, pos_weight, logits, op="binary_cross_entropy", grad_loss=None):
    check_dtype(op, "input", x)
    given = logits or pos_weight is None
    check(given, op, "pos_weight", "one", "none for probabilities")
    named = (("target", target), ("weight", weight), ("pos_weight", pos_weight))
    for name, tensor in (*named, ("grad_loss", grad_loss)):
        if tensor is not None:
            check_like(op, name, tensor, x)
    return empty_as(x)


def _fake_backward(grad_loss, *arguments):
    return _fake(*arguments, "binary_cross_entropy_backward", grad_loss)


def _save(ctx, inputs, output):
    *tensors, ctx.logits = inputs
    ctx.there = [t is not None for t in tensors]
    ctx.save_for_backward(*(t for t in tensors if t is not None))


def _backward(ctx, grad_loss):
    saved = iter(ctx.saved_tensors)
    tensors = [next(saved) if there else None for there in ctx.there]
    grad_x = binary_cross_entropy_backward(grad_loss, *tensors, ctx.logits, namespace=ctx.namespace)
    return grad_x, None, None, None, None


_common = {"sample_dims": None, "constants": ("target", "weight", "pos_weight")}
binary_cross_entropy_inference = Op(
    name="binary_cross_entropy_inference",
    decomposition=_binary_cross_entropy,
    fake=_fake,
    **_common,
)
binary_cross_entropy = Op(
    name="binary_cross_entropy",
    decomposition=_binary_cross_entropy,
    fake=_fake,
    save=_save,
    backward=_backward,
    **_common,
)
binary_cross_entropy_backward = Op(
    name="binary_cross_entropy_backward",
    decomposition=_binary_cross_entropy_backward,
    fake=_fake_backward,
    **_common,
)
