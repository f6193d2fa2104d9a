"""local_response_norm: each channel divided by a power of the squares of those around it."""

import torch
import torch.nn.functional as F

from ._channel_norm import empty_like, in_format_of
from ._dense import check_dtype, check_like, compute_dtype
from ._op import Op, check, no_gradient_of


def _around(values, before, after):
    """For each channel, the sum over those from `before` below it to `after` above."""
    padded = F.pad(values, [0, 0] * (values.dim() - 2) + [before, after])
    return padded.unfold(1, before + after + 1, 1).sum(-1)


def _scale(x, size, alpha, k):
    return k + alpha / size * _around(x.to(compute_dtype(x)).square(), size // 2, (size - 1) // 2)


def _local_response_norm(x, size, alpha, beta, k):
    scale = in_format_of(x, _scale(x, size, alpha, k))
    y = in_format_of(x, (x.to(scale.dtype) * scale.pow(-beta)).to(x.dtype))
    return y, scale.detach()


def _local_response_norm_backward(grad_y, x, y, scale, size, alpha, beta, k):
    # The given y and scale only save time: here x gives them, so that they have derivatives.
    scale = _scale(x, size, alpha, k)
    g, v = grad_y.to(scale.dtype), x.to(scale.dtype)
    terms = _around(g * v * scale.pow(-beta - 1), (size - 1) // 2, size // 2)
    grad_x = g * scale.pow(-beta) - 2 * alpha * beta / size * v * terms
    return in_format_of(x, grad_x.to(x.dtype))


def _check(op, x, size):
    check(x.dim() >= 3, op, "input", f"{x.dim()} dimensions", "at least 3 (N, C, ...)")
    check_dtype(op, "input", x)
    check(size > 0, op, "size", size, "at least 1")


def _fake(x, size, alpha, beta, k):
    _check("local_response_norm", x, size)
    y = empty_like(x)
    return y, torch.empty_like(y, dtype=compute_dtype(x))


def _fake_backward(grad_y, x, y, scale, size, alpha, beta, k):
    op = "local_response_norm_backward"
    _check(op, x, size)
    check_like(op, "grad_y", grad_y, x)
    check_like(op, "y", y, x)
    check_like(op, "scale", scale, x, compute_dtype(x))
    return empty_like(x)


def _save(ctx, inputs, output):
    x, *ctx.arguments = inputs
    no_gradient_of(ctx, output[1])
    ctx.save_for_backward(x, *output)


def _backward(ctx, grad_y, _):
    grad_x = local_response_norm_backward(
        grad_y, *ctx.saved_tensors, *ctx.arguments, namespace=ctx.namespace
    )
    return grad_x, None, None, None, None


_common = {"sample_dims": None, "batched": (), "sharded_dims": ()}
local_response_norm_inference = Op(
    name="local_response_norm_inference",
    decomposition=lambda *args: _local_response_norm(*args)[0],
    fake=lambda *args: _fake(*args)[0],
    **_common,
)
local_response_norm = Op(
    name="local_response_norm",
    decomposition=_local_response_norm,
    fake=_fake,
    save=_save,
    backward=_backward,
    **_common,
)
local_response_norm_backward = Op(
    name="local_response_norm_backward",
    decomposition=_local_response_norm_backward,
    fake=_fake_backward,
    constants=("y", "scale"),
    **_common,
)
