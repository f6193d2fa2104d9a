"""A benchmark case is data; the harness knows nothing about any particular op.

A file in `cases/` has one function, `cases()`, that lists its family's cases. Every worker process
calls it too and finds its case by name, so a case may hold lambdas and partials: it never travels.
"""

import dataclasses
import importlib
import pkgutil
import zlib
from collections.abc import Callable

import torch

SHORT = {"float32": "f32", "bfloat16": "bf16"}  # the dtypes of cases, as their names have them
LONG = {short: dtype for dtype, short in SHORT.items()}
MODELS = "models"  # the family of whole models
SIZE = {"float32": 4, "bfloat16": 2}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to time.

    make_inputs  (generator) -> a tuple of tensors, random: f32, contiguous, on the CPU
    reference    () -> the PyTorch function or module, called with the inputs
    ours         () -> torchext's counterpart
    bytes, flops what a perfect implementation must move and compute in one call; bytes=0 means
                 that no roofline applies (call overhead)
    sum_length   the length of the longest sum behind one output: part of the allowed error
    origin       the library that the reference is from, where that is not torch
    layout       of 4-d inputs for torchext: channels_last, or contiguous (NCHW)
    training     forward and backward, gradients of all floating inputs and parameters
    autotuned    max-autotune can change something here (on a CPU: matrix products only)
    quick        one of the few that `--quick` and plain `pytest benchmarks/` run
    """

    name: str
    family: str
    make_inputs: Callable
    reference: Callable
    ours: Callable
    bytes: int
    flops: int = 0
    sum_length: int = 1
    dtype: str = "float32"
    origin: str = ""
    layout: str = "channels_last"
    batch: int = 1
    threads: int | None = None  # None: the run's
    training: bool = False
    autotuned: bool = False
    quick: bool = False
    devices: tuple = ("cpu", "cuda")
    device: str = "cpu"  # the run's, filled in by select()

    def inputs(self, layout, dtype=None):
        """The same numbers in every process, whatever the layout; f64 holds the rounded ones."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        inputs = []
        for x in self.make_inputs(generator):
            if x.is_floating_point():
                x = x.to(getattr(torch, self.dtype)).to(dtype or getattr(torch, self.dtype))
            inputs.append(in_layout(x.to(self.device), layout))
        return tuple(inputs)


def in_layout(x, layout):
    return x.contiguous(memory_format=LAYOUTS[layout]) if x.dim() == 4 else x.contiguous()


def prepare(case, function, layout, dtype=None):
    """A module in the case's device, dtype and layout; a plain function as it is."""
    if not isinstance(function, torch.nn.Module):
        return function
    function = function.to(case.device, dtype or getattr(torch, case.dtype))
    return function.to(memory_format=LAYOUTS[layout]).train(case.training)


def parameters_of(function):
    return list(function.parameters()) if isinstance(function, torch.nn.Module) else []


def bind(case, function, layout, dtype=None):
    """The zero-argument call to time: function(*inputs), and in training its gradients."""
    inputs = case.inputs(layout, dtype)
    if not case.training:

        def forward():
            return function(*inputs)

        return forward
    inputs = tuple(x.requires_grad_() if x.is_floating_point() else x for x in inputs)
    sources = [x for x in inputs if x.requires_grad] + parameters_of(function)
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(y.shape, generator=generator)
        .to(getattr(torch, case.dtype))
        .to(y.device, y.dtype)
        for y in flatten(function(*inputs))
    ]
    cotangents = [in_layout(g, layout) for g in cotangents]

    def step():
        outputs = flatten(function(*inputs))
        return outputs, torch.autograd.grad(outputs, sources, cotangents)

    return step


def flatten(outputs):
    """All tensors in nested tuples and lists, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flatten(part)]


def families():
    """The modules of cases/: adding a file there adds its cases."""
    from . import cases

    return sorted(f"{cases.__name__}.{m.name}" for m in pkgutil.iter_modules(cases.__path__))


def load(modules):
    """{name: (module, Case)} of the modules' cases."""
    found = {}
    for module in modules:
        for case in importlib.import_module(module).cases():
            if case.name in found:
                raise RuntimeError(f"{module}: two cases are named {case.name}")
            found[case.name] = (module, case)
    return found


def find(module, name):
    """One case. A module with more than it lists has a function for it."""
    one = getattr(importlib.import_module(module), "case", None)
    return one(name) if one else load([module])[name][1]


def select(modules=None, wanted="", quick=False, device="cpu"):
    """[(module, Case)] whose name contains each word of `wanted`, for `device`."""
    return [
        (module, dataclasses.replace(case, device=device))
        for module, case in load(modules or families()).values()
        if device in case.devices
        and (case.quick or not quick)
        and all(word in case.name for word in wanted.split())
    ]
