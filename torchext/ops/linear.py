"""linear with an epilogue: activation(x weight^T + bias + residual)."""

from math import prod

from torch.nn.functional import linear as _aten_linear

from . import _slower
from ._activation import FUSED_IN_TRAINING, activate, gated
from ._conv2d import check_companion, check_shape
from ._op import Op, check
from ._packed import check_panels, unpack
from ._pool2d import check_dtype
from .conv2d import _check_activation, _check_gate


def _linear(x, weight, bias, residual, activation):
    y = _aten_linear(x, weight, bias)
    return activate(y if residual is None else y + residual, activation)


def _linear_backward_input(grad_y, y, weight, activation):
    return gated(grad_y, y, activation) @ weight


def _linear_backward_weight(grad_y, y, x, activation, of_bias):
    grad = gated(grad_y, y, activation)
    grad = grad.reshape(-1, grad.shape[-1])
    grad_weight = grad.T @ x.reshape(grad.shape[0], x.shape[-1])
    return grad_weight, grad.sum(0) if of_bias else grad.new_empty(0)


def _check_rank(op, argument, x):
    check(x.dim() >= 1, op, argument, "a scalar", "at least 1 dimension")


def _check_weight(op, weight, first):
    check(weight.dim() == 2, op, "weight", f"{weight.dim()} dimensions", "2 (out, in)")
    check_companion(op, "weight", weight, first)


def _linear_packed(x, panels, out_features, *args):
    return _linear(x, unpack(panels, (out_features, x.shape[-1]), 1, x.dtype), *args)


def _fake(x, weight, *args):
    op = "linear"
    _check_rank(op, "input", x)
    check_dtype(op, "input", x)
    _check_weight(op, weight, x)
    features = weight.shape[1]
    check(x.shape[-1] == features, op, "input", f"{x.shape[-1]} features", features)
    return _result(op, x, weight.shape[0], *args)


def _fake_packed(x, panels, out_features, *args):
    op = "linear_packed_inference"
    _check_rank(op, "input", x)
    check_dtype(op, "input", x)
    check(out_features > 0, op, "out_features", out_features, "at least 1")
    check_panels(op, panels, x, (out_features, x.shape[-1]), 1, pairs=True)
    return _result(op, x, out_features, *args)


def _result(op, x, features, bias, residual, activation):
    _check_activation(op, activation)
    shape = (*x.shape[:-1], features)
    for argument, tensor, expected in (
        ("bias", bias, shape[-1:]),
        ("residual", residual, shape),
    ):
        if tensor is not None:
            check_companion(op, argument, tensor, x)
            check_shape(op, argument, tensor.shape, expected)
    return x.new_empty(shape)


def _fake_backward_input(grad_y, y, weight, activation):
    op = "linear_backward_input"
    _check_rank(op, "grad_y", grad_y)
    check_dtype(op, "grad_y", grad_y)
    _check_weight(op, weight, grad_y)
    features = weight.shape[0]
    check(grad_y.shape[-1] == features, op, "grad_y", f"{grad_y.shape[-1]} features", features)
    _check_gate(op, grad_y, y, activation)
    return grad_y.new_empty((*grad_y.shape[:-1], weight.shape[1]))


def _fake_backward_weight(grad_y, y, x, activation, of_bias):
    op = "linear_backward_weight"
    _check_rank(op, "grad_y", grad_y)
    _check_rank(op, "x", x)
    check_dtype(op, "grad_y", grad_y)
    check_companion(op, "x", x, grad_y)
    check_shape(op, "x", x.shape, (*grad_y.shape[:-1], x.shape[-1]))
    _check_gate(op, grad_y, y, activation)
    weight = (grad_y.shape[-1], x.shape[-1])
    return grad_y.new_empty(weight), grad_y.new_empty(weight[0] if of_bias else 0)


def _save(ctx, inputs, output):
    x, weight, _, _, ctx.activation = inputs
    ctx.save_for_backward(x, weight, output if ctx.activation != 0 else None)


def _backward(ctx, grad_y):
    x, weight, y = ctx.saved_tensors
    wants_x, wants_weight, wants_bias, wants_residual, *_ = ctx.needs_input_grad
    grad_x = grad_weight = grad_bias = None
    if wants_x:
        grad_x = linear_backward_input(grad_y, y, weight, ctx.activation, namespace=ctx.namespace)
    if wants_weight or wants_bias:
        grad_weight, grad_bias = linear_backward_weight(
            grad_y, y, x, ctx.activation, wants_bias, namespace=ctx.namespace
        )
    return (
        grad_x,
        grad_weight if wants_weight else None,
        grad_bias if wants_bias else None,
        gated(grad_y, y, ctx.activation) if wants_residual else None,
        None,
    )


_COMMON = {
    "decomposition": _linear,
    "fake": _fake,
    "autocast": ("input", "weight", "bias", "residual"),
    "batched": ("input", "residual"),
    "sample_dims": None,
    "flops": lambda x, weight, *args: 2 * prod(x) * weight[0],
    "slower": _slower.product,
}
linear_inference = Op(name="linear_inference", **_COMMON)
linear_packed_inference = Op(
    name="linear_packed_inference",
    decomposition=_linear_packed,
    fake=_fake_packed,
    constants=("panels",),
    batched=("input", "residual"),
    sample_dims=None,
    flops=lambda x, panels, out_features, *args: 2 * prod(x) * out_features,
)
linear = Op(name="linear", save=_save, backward=_backward, **_COMMON)
linear_backward_input = Op(
    name="linear_backward_input",
    decomposition=_linear_backward_input,
    fake=_fake_backward_input,
    batched=("grad_y", "y"),
    sample_dims=None,
    constants=("y",),
    flops=lambda grad_y, y, weight, *args: 2 * prod(grad_y) * weight[1],
    slower=_slower.product,
)
linear_backward_weight = Op(
    name="linear_backward_weight",
    decomposition=_linear_backward_weight,
    fake=_fake_backward_weight,
    batched=(),
    constants=("y",),
    sharded_dims=(),
    flops=lambda grad_y, y, x, *args: 2 * prod(x) * grad_y[-1],
    slower=_slower.product,
)


def run(x, weight, bias, residual, activation, needs_grad):
    """linear's op for the occasion; where training needs more than the result, in two steps."""
    if not needs_grad:
        return linear_inference(x, weight, bias, residual, activation)
    if activation in FUSED_IN_TRAINING:
        return linear(x, weight, bias, residual, activation)
    return activate(linear(x, weight, bias, residual, 0), activation)
