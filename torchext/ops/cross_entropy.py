"""cross_entropy of logits, with classes or probabilities as targets; log_softmax is fused.

Besides the loss it returns what its gradient needs: the logarithm of each item's sum of
exponentials, and what a mean divides by; neither is differentiable.
"""

import torch
import torch.nn.functional as F

from ._dense import check_dtype, check_like, check_statistics, check_weight, compute_dtype
from ._op import Op, check, no_gradient_of

REDUCTIONS = ("none", "mean", "sum")


def _wide(x, *tensors):
    return [t if t is None or t.dtype == torch.int64 else t.to(compute_dtype(x)) for t in tensors]


def _cross_entropy(x, target, weight, reduction, ignore_index, label_smoothing):
    wide, t, w = _wide(x, x, target, weight)
    loss = F.cross_entropy(
        wide,
        t,
        w,
        ignore_index=ignore_index if t.dtype == torch.int64 else -100,  # of classes only
        reduction=REDUCTIONS[reduction],
        label_smoothing=label_smoothing,
    )
    most = wide.detach().amax(_axis(x), keepdim=True)
    lse = most + (wide.detach() - most).exp().sum(_axis(x), keepdim=True).log()
    return loss.to(x.dtype), lse.squeeze(_axis(x)), _total_weight(wide, t, w, ignore_index)


def _total_weight(x, target, weight, ignore_index):
    """What a mean divides by."""
    if target.dtype != torch.int64:
        return x.new_full((), x.numel() // x.shape[_axis(x)])
    counted = target != ignore_index
    if weight is None:
        return counted.sum().to(x.dtype)
    return (weight[torch.where(counted, target, 0)] * counted).sum().detach()


def _cross_entropy_backward(
    grad_loss, x, target, weight, lse, total_weight, reduction, ignore_index, label_smoothing
):
    # The given lse and total weight only save time: here x gives them, with derivatives.
    wide, t, w = _wide(x, x, target, weight)
    axis, classes = _axis(x), x.shape[_axis(x)]
    items = _total_weight(wide, t, w, ignore_index) if reduction == 1 else 1
    g = (grad_loss.to(wide.dtype) / items).unsqueeze(axis if grad_loss.dim() else 0)
    if t.dtype == torch.int64:
        counted = (t != ignore_index).unsqueeze(axis)
        hot = (
            F.one_hot(torch.where(counted.squeeze(axis), t, 0), classes)
            .movedim(-1, axis)
            .to(wide.dtype)
        )
        parts = hot * (1 - label_smoothing) + label_smoothing / classes
    else:
        counted, parts = True, t * (1 - label_smoothing) + label_smoothing / classes
    if w is not None:
        parts = parts * w.reshape(-1, *(1,) * (x.dim() - axis - 1))
    gradient = g * (wide.softmax(axis) * parts.sum(axis, keepdim=True) - parts)
    return torch.where(torch.as_tensor(counted, device=x.device), gradient, 0.0).to(x.dtype)


def _axis(x):
    return 1 if x.dim() > 1 else 0


def _items(x):
    """The sizes of the input without its classes."""
    return [n for d, n in enumerate(x.shape) if d != _axis(x)]


def _check(op, x, target, weight, reduction, label_smoothing):
    check_dtype(op, "input", x)
    check(x.dim() >= 1, op, "input", "a number", "classes")
    classes = x.shape[_axis(x)]
    check(classes > 0, op, "input", "no classes", "at least 1")
    words = "0 (none), 1 (mean) or 2 (sum)"
    check(0 <= reduction <= 2, op, "reduction", reduction, words)
    check(0 <= label_smoothing <= 1, op, "label_smoothing", label_smoothing, "0 to 1")
    if target.dtype == torch.int64:
        wanted = f"that of the input {list(x.shape)} without its classes"
        fits = list(target.shape) == _items(x)
        check(fits, op, "target", f"shape {list(target.shape)}", wanted)
        same = target.device == x.device
        check(same, op, "target", f"a tensor on {target.device}", f"one on {x.device}")
    else:
        check_like(op, "target", target, x)
    check_weight(op, "weight", x, weight, classes)


def _fake(x, target, weight, reduction, ignore_index, label_smoothing):
    _check("cross_entropy", x, target, weight, reduction, label_smoothing)
    loss = x.new_empty(() if reduction else _items(x))
    wide = compute_dtype(x)
    return loss, x.new_empty(_items(x), dtype=wide), x.new_empty((), dtype=wide)


def _fake_backward(
    grad_loss, x, target, weight, lse, total_weight, reduction, ignore_index, label_smoothing
):
    op = "cross_entropy_backward"
    _check(op, x, target, weight, reduction, label_smoothing)
    items = x.numel() // x.shape[_axis(x)]
    check_statistics(op, "lse", x, lse, items)
    check_statistics(op, "total_weight", x, total_weight, 1)
    count = grad_loss.numel()
    check(count == (1 if reduction else items), op, "grad_loss", f"{count} elements", "one a loss")
    check_dtype(op, "grad_loss", grad_loss)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    x, target, weight, *ctx.arguments = inputs
    _, lse, total_weight = output
    no_gradient_of(ctx, lse, total_weight)
    ctx.save_for_backward(x, target, lse, total_weight, *(() if weight is None else (weight,)))


def _backward(ctx, grad_loss, *_):
    x, target, lse, total_weight, *weight = ctx.saved_tensors
    grad_x = cross_entropy_backward(
        *(grad_loss, x, target, weight[0] if weight else None, lse, total_weight),
        *ctx.arguments,
        namespace=ctx.namespace,
    )
    return grad_x, None, None, None, None, None


_common = {
    "sample_dims": None,
    "batched": (),
    "sharded_dims": (),
    "constants": ("target", "weight", "lse", "total_weight"),
}
cross_entropy_inference = Op(
    name="cross_entropy_inference",
    decomposition=lambda *args: _cross_entropy(*args)[0],
    fake=lambda *args: _fake(*args)[0],
    **_common,
)
cross_entropy = Op(
    name="cross_entropy",
    decomposition=_cross_entropy,
    fake=_fake,
    save=_save,
    backward=_backward,
    **_common,
)
cross_entropy_backward = Op(
    name="cross_entropy_backward",
    decomposition=_cross_entropy_backward,
    fake=_fake_backward,
    **_common,
)
