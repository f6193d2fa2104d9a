"""Layers that run torchext's kernels in place of torch's own: the same modules of another class."""

import torch
from torch import nn

from .. import nn as tn
from ._timing import least_times, waiter

# torch's class -> ours. Dropout draws other numbers from the same seed: it stays.
CLASSES = {
    ours.__mro__[1]: ours
    for name in tn.__all__
    if isinstance(ours := getattr(tn, name), type)
    and ours.__mro__[1].__module__.startswith("torch.nn.modules")
    and ours.__mro__[1] not in (nn.Module, nn.Dropout)
}


def use_layers(model, report):
    """Gives every layer that has one its class of ours; the report says which, and why not."""
    for name, module in model.named_modules():
        ours = CLASSES.get(type(module))
        if ours is None:
            if not module._modules and not type(module).__module__.startswith("torchext."):
                report.row(name, type(module).__name__, "itself: torchext has no such layer")
        elif getattr(module, "inplace", False):
            report.row(name, type(module).__name__, "ATen: in place")
        elif "forward" in vars(module):
            report.row(name, type(module).__name__, "itself: its forward is another one")
        else:
            module.__class__ = ours
            report.row(name, type(module).__name__, "torchext")


def leave_layers(model):
    """Takes it all back."""
    for module in model.modules():
        if type(module) in CLASSES.values():
            module.__class__ = type(module).__mro__[1]


class Trial:
    """Times each of our layers on what it gets in a forward, with its gradient, beside torch's own,
    and takes back those that are slower."""

    def __init__(self, model, report):
        self.report, self.known = report, {}
        self.names = {module: name for name, module in model.named_modules()}
        ours = set(CLASSES.values())
        self.hooks = [
            module.register_forward_pre_hook(self._compare, with_kwargs=True)
            for module in self.names
            if type(module) in ours
        ]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for hook in self.hooks:
            hook.remove()

    def _compare(self, module, args, kwargs):
        if not all(isinstance(x, torch.Tensor) for x in args) or kwargs:
            return
        ours = type(module)
        theirs = ours.__mro__[1]
        key = (ours, module.extra_repr(), [(x.shape, x.stride(), x.dtype) for x in args])
        if str(key) not in self.known:
            steps = [_step(module, cls, args) for cls in (ours, theirs)]
            self.known[str(key)] = least_times(steps, wait=waiter(args))
        mine, its = self.known[str(key)]
        self.report.timed(self.names[module], mine, its)
        if its < 0.97 * mine:
            module.__class__ = theirs
            self.report.row(self.names[module], theirs.__name__, "ATen")


def _step(module, cls, args):
    """The module's forward and backward as one of class cls, leaving no traces."""
    inputs = [
        x.detach().clone().requires_grad_(x.is_floating_point() and x.requires_grad) for x in args
    ]
    kept = {name: b.clone() for name, b in module._buffers.items() if b is not None}
    wanted = [x for x in (*inputs, *module.parameters()) if x.requires_grad]

    def step():
        with torch.enable_grad():
            y = cls.forward(module, *inputs)
        y = y[0] if isinstance(y, tuple) else y
        if wanted and y.requires_grad:
            torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)
        for name, b in kept.items():
            module._buffers[name].copy_(b)

    return step
