"""Models of ours against the same of torch.nn: outputs and gradients by the error rule."""

import copy

import torch
from harness import allowed_error, error_of


def same_state(theirs, ours):
    """`theirs` with the weights of `ours`; their names may differ, their order not."""
    pairs = zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict({name: value.view_as(like) for (name, like), value in pairs})
    return theirs.train(ours.training)


def check_like(theirs, ours, *args, terms, kinks=False):
    """Both by what theirs makes in float64.

    terms  the length of the longest sum
    kinks  whether there are so many relus and maxima that rounding sends some gradients elsewhere:
           then ours are taken in float64 too, and must be right to half its digits
    """
    args64 = [x.double() if _floating(x) else x for x in args]
    reference = _outputs_and_gradients(copy.deepcopy(theirs).double(), args64)
    got, by_torch = (_outputs_and_gradients(model, args) for model in (ours, theirs))
    _check(got[0], by_torch[0], reference[0], terms, slack=2)
    if not kinks:
        _check(got[1], by_torch[1], reference[1], terms, slack=3)
        return
    _, gradients = _outputs_and_gradients(copy.deepcopy(ours).double(), args64)
    for i, (got, expected) in enumerate(zip(gradients, reference[1], strict=True)):
        assert error_of(got.view_as(expected), expected) < 1e-8, f"gradient {i}"


def _check(got, by_torch, reference, terms, slack):
    for i, (y, torchs, exact) in enumerate(zip(got, by_torch, reference, strict=True)):
        allowed = allowed_error(y.dtype, terms, error_of(torchs, exact), slack)
        error = error_of(y.view_as(exact), exact)
        assert error <= allowed, f"{i}: error {error:.3g}, allowed {allowed:.3g}"


def _floating(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def _outputs_and_gradients(model, args):
    model = copy.deepcopy(model)  # its running statistics change
    args = [x.clone().requires_grad_() if _floating(x) else x for x in args]
    ys = model(*args)
    ys = ys if isinstance(ys, tuple) else (ys,)
    loss = sum((y * torch.arange(y.numel(), device=y.device).view(y.shape).sin()).sum() for y in ys)
    leaves = [*filter(_floating, args), *model.parameters()]
    return [y.detach() for y in ys], torch.autograd.grad(loss, leaves)
