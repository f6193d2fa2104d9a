"""activation: one of the functions of _activation.py, element by element."""

from ._activation import FROM_RESULT, KINDS, activate, activate_backward, check_kind
from ._dense import check_dtype, check_like, empty_as
from ._op import Op


def _activation(x, kind):
    return activate(x, kind) if kind != KINDS["none"] else x.clone()


def _fake(x, kind):
    check_dtype("activation", "input", x)
    check_kind("activation", kind)
    return empty_as(x)


def _fake_backward(grad_y, x, kind):
    op = "activation_backward"
    check_dtype(op, "input", x)
    check_kind(op, kind)
    check_like(op, "grad_y", grad_y, x)
    return empty_as(x)


def _save(ctx, inputs, output):
    x, ctx.kind = inputs
    ctx.save_for_backward(output if ctx.kind in FROM_RESULT else x)


def _backward(ctx, grad_y):
    (x,) = ctx.saved_tensors
    return activation_backward(grad_y, x, ctx.kind, namespace=ctx.namespace), None


activation_inference = Op(
    name="activation_inference", decomposition=_activation, fake=_fake, sample_dims=None
)
activation = Op(
    name="activation",
    decomposition=_activation,
    fake=_fake,
    save=_save,
    backward=_backward,
    sample_dims=None,
)
activation_backward = Op(
    name="activation_backward",
    decomposition=activate_backward,
    fake=_fake_backward,
    sample_dims=None,
)
