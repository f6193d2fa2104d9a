"""What a model does when it runs: the calls of its modules, as a tree, and what each one costs."""

from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Call:
    """One call of a module.

    cost             of the call with all that it calls, by the meter of record()
    parameters       how many are used here first: of the module itself and of what it does not call
    inputs, outputs  shapes of all tensors
    receptive_field  of the output, (height, width) in pixels of the image, where trace() follows it
    """

    name: str
    module: torch.nn.Module
    cost: float = 0
    parameters: int = 0
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    receptive_field: tuple | None = None
    calls: list = field(default_factory=list)

    @property
    def own_cost(self):
        return self.cost - sum(call.cost for call in self.calls)

    def tree(self):
        """This call and all within, each after what it calls."""
        for call in self.calls:
            yield from call.tree()
        yield self

    def windows(self):
        """The modules that slide a kernel over the input, if the call does its work itself."""
        if self.calls:
            return []
        return [m for m in self.module.modules() if hasattr(m, "kernel_size")]


def record(model, x, meter, finished=lambda call, inputs, outputs: None):
    """model(x) as a Call. meter() only grows; finished() is told of each call when it is over."""
    names = {module: name for name, module in model.named_modules()}
    running, seen = [Call("", model)], set()

    def enter(module, args, kwargs):
        call = Call(names[module], module)
        running[-1].calls.append(call)
        running.append(call)
        call.cost = -meter()

    def leave(module, args, kwargs, output):
        read = meter()
        call = running.pop()
        call.cost += read
        new = {p for p in module.parameters() if p not in seen}
        seen.update(new)
        call.parameters = sum(p.numel() for p in new)
        inputs, outputs = tensors_in((args, kwargs)), tensors_in(output)
        call.inputs, call.outputs = ([list(t.shape) for t in ts] for ts in (inputs, outputs))
        finished(call, inputs, outputs)

    hooks = []
    for module in names:
        hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    (call,) = running[0].calls
    return call


def tensors_in(value):
    """All tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for part in value for tensor in tensors_in(part)]


def trace(skeleton, shape):
    """record() by FLOPs, and with receptive fields; nothing is computed, on the meta device.

    A multiply-add counts as two. The field of a map is the largest of what it is made of, by
    whichever branch; convolution and pooling by a kernel k, dilation d and stride s let it grow by
    d (k - 1) pixels of their input, each of which is the product of the strides before. It is
    followed as long as ops keep a map [N, C, H, W] and its size.
    """
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.empty(shape, device="meta")
    x.torchext_field = _Field((1, 1), (1, 1)) if x.dim() == 4 else None
    with FlopCounterMode(display=False) as counter, _FollowFields():
        return record(skeleton, x, counter.get_total_flops, _grow)


@dataclass(frozen=True)
class _Field:
    size: tuple  # of a value's receptive field
    step: tuple  # from one value's to the next one's


class _FollowFields(TorchDispatchMode):
    """Gives maps that an op makes the field of what they are made of."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sources = [x for x in tensors_in((args, kwargs)) if hasattr(x, "torchext_field")]
        if sources:
            for y in tensors_in(made):
                y.torchext_field = _largest(sources, y.shape)
        return made


def _largest(sources, shape):
    fields = [x.torchext_field for x in sources]
    same = [x.torchext_field for x in sources if x.shape[-2:] == shape[-2:]]
    if len(shape) != 4 or None in fields or not same:
        return None
    size = tuple(map(max, zip(*(f.size for f in fields), strict=True)))
    return _Field(size, same[0].step)


def _grow(call, inputs, outputs):
    """Tells a call its output's field, which grows where a kernel slid over the input."""
    if not outputs:
        return
    kernels = list(_kernels(call))
    if kernels:
        outputs[0].torchext_field = _grown(getattr(inputs[0], "torchext_field", None), kernels)
    found = getattr(outputs[0], "torchext_field", None)
    call.receptive_field = found and found.size


def _grown(seen, kernels):
    if seen is None:
        return None
    size, step = seen.size, seen.step
    for kernel, stride in kernels:
        size = tuple(n + (k - 1) * d for n, k, d in zip(size, kernel, step, strict=True))
        step = tuple(d * s for d, s in zip(step, stride, strict=True))
    return _Field(size, step)


def _kernels(call):
    """(size with dilation, stride) of each kernel that slides over the call's input, by axis."""
    for module in call.windows():
        kernel, stride = pair(module.kernel_size), pair(module.stride)
        dilation = pair(getattr(module, "dilation", 1))
        yield tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)), stride
    if isinstance(call.module, torch.nn.AdaptiveAvgPool2d):
        sizes = call.inputs[0][-2:], call.outputs[0][-2:]
        stride = tuple(n // m for n, m in zip(*sizes, strict=True))
        yield tuple(n - (m - 1) * s for n, m, s in zip(*sizes, stride, strict=True)), stride


def pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
