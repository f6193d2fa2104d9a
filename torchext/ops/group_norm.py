"""group_norm: each image's channels normalised in groups, then scaled one by one.

The statistics are float32 (float64 for float64) and not differentiable.
"""

from . import _channel_norm as norm
from . import _slower
from ._dense import check_weight, compute_dtype
from ._norm import gradients, save_weights
from ._op import Op, check, no_gradient_of


def _normalised(x, groups, eps):
    """(xhat, mean, rstd), the statistics [N, groups, 1]"""
    size = x.shape[1:].numel() // groups  # given, since an empty batch tells no -1
    sets = x.to(compute_dtype(x)).reshape(x.shape[0], groups, size)
    mean = sets.mean(2, keepdim=True)
    rstd = ((sets - mean).square().mean(2, keepdim=True) + eps).rsqrt()
    return ((sets - mean) * rstd).reshape(x.shape), mean, rstd


def _group_norm(x, groups, weight, bias, eps):
    xhat, mean, rstd = _normalised(x, groups, eps)
    return norm.affine(x, xhat, weight, bias), mean.detach().squeeze(2), rstd.detach().squeeze(2)


def _group_norm_backward(grad_y, x, mean, rstd, groups, weight, eps, of_weights):
    # The given statistics only save time: here x gives them, so that they have derivatives.
    xhat, _, rstd = _normalised(x, groups, eps)
    grad = grad_y.to(xhat.dtype)
    g = grad if weight is None else grad * norm.per_channel(x, weight)
    shape = (x.shape[0], groups, x.shape[1:].numel() // groups)
    g, products = g.reshape(shape), (g * xhat).reshape(shape)
    inner = g - g.mean(2, keepdim=True) - xhat.reshape(shape) * products.mean(2, keepdim=True)
    grad_x = norm.in_format_of(x, (rstd * inner).reshape(x.shape).to(x.dtype))
    return grad_x, *norm.of_the_weights(x, grad, xhat, of_weights)


def _check(op, x, groups):
    norm.check_channels(op, x)
    wanted = f"a divisor of the {x.shape[1]} channels"
    check(groups > 0 and x.shape[1] % groups == 0, op, "groups", groups, wanted)


def _fake(x, groups, weight, bias, eps):
    op = "group_norm"
    _check(op, x, groups)
    check_weight(op, "weight", x, weight, x.shape[1])
    check_weight(op, "bias", x, bias, x.shape[1])
    mean, rstd = (x.new_empty(x.shape[0], groups, dtype=compute_dtype(x)) for _ in range(2))
    return norm.empty_like(x), mean, rstd


def _fake_backward(grad_y, x, mean, rstd, groups, weight, eps, of_weights):
    op = "group_norm_backward"
    _check(op, x, groups)
    return norm.fake_backward(op, grad_y, x, mean, rstd, weight, x.shape[0] * groups, of_weights)


def _save(ctx, inputs, output):
    x, ctx.groups, weight, bias, ctx.eps = inputs
    no_gradient_of(ctx, *output[1:])
    save_weights(ctx, x, weight, bias, *output[1:])


def _backward(ctx, grad_y, *_):
    grad_x, grad_weight, grad_bias = gradients(
        ctx, group_norm_backward, grad_y, (ctx.groups,), (ctx.eps,)
    )
    return grad_x, None, grad_weight, grad_bias, None


_common = {"sample_dims": None, "batched": (), "sharded_dims": ()}
group_norm_inference = Op(
    name="group_norm_inference",
    decomposition=lambda *args: _group_norm(*args)[0],
    fake=lambda *args: _fake(*args)[0],
    slower=_slower.small,
    **_common,
)
group_norm = Op(
    name="group_norm",
    decomposition=_group_norm,
    fake=_fake,
    save=_save,
    backward=_backward,
    slower=_slower.small_training,
    **_common,
)
group_norm_backward = Op(
    name="group_norm_backward",
    decomposition=_group_norm_backward,
    fake=_fake_backward,
    constants=("mean", "rstd"),
    **_common,
)
