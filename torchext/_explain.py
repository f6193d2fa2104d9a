"""torchext.explain: which kernels a call runs, on what, and where PyTorch's own are faster."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from . import _fallback, _load
from .ops import OPS
from .ops._triton import serves_cuda


@dataclass(frozen=True)
class Step:
    """One call of an op: of its kernel, or of plain PyTorch."""

    op: str
    tensors: tuple  # its tensor arguments, in words
    runs: str  # what ran: the kernel's kind, or plain PyTorch and why
    slower: str  # why PyTorch's own op is faster here, where that was measured; else ""
    call: str = ""  # with all its arguments, as slower.json names it

    def __str__(self):
        line = f"{self.op}({', '.join(self.tensors)}): {self.runs}"
        return f"{line}\n    slower than PyTorch's own: {self.slower}" if self.slower else line


class Explanation(list):
    """The steps in order; printed, a line each."""

    def __str__(self):
        return "\n".join(map(str, self)) or "no torchext op ran"

    __repr__ = __str__


def explain(function, *args, **kwargs):
    """Calls `function` (a module, or anything that runs torchext's ops) and tells what ran."""
    steps = Explanation()

    def fell_back(op, why):
        steps.append(Step(op, (), f"plain PyTorch: {why}", ""))

    with _fallback.told_to(fell_back), _Recorder(steps):
        function(*args, **kwargs)
    return steps


def onlookers():
    """How many dispatch modes there are that only look on: `explain`'s, or none."""
    return int(isinstance(_get_current_dispatch_mode(), _Recorder))


class _Recorder(TorchDispatchMode):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "torchext":
            name = func.__name__.split(".")[0]
            tensors = tuple(_words(x) for x in args if isinstance(x, torch.Tensor))
            others = tuple(repr(x) for x in args if not isinstance(x, torch.Tensor))
            call, device = f"{name}({', '.join(tensors + others)})", args[0].device.type
            measured = _measured() if device == "cpu" else {}
            slower = OPS[name].slower(*args) or measured.get(call, "")
            self.steps.append(Step(name, tensors, _kernel(name, device), slower, call))
        return func(*args, **(kwargs or {}))


@functools.cache
def _measured():
    """{call: how slow it was}, from what benchmarks/slower.py wrote."""
    table = json.loads(Path(__file__).with_name("slower.json").read_text())
    where = f"on {table['machine']}, {table['date']}"
    return {
        call: f"{speed} of its speed, measured {where}" for call, speed in table["calls"].items()
    }


def _words(x):
    dtype = str(x.dtype).removeprefix("torch.")
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = " channels_last" if last and not x.is_contiguous() else ""
    strided = "" if layout or x.is_contiguous() else " strided"
    return f"{dtype}{list(x.shape)}{layout}{strided}"


def _kernel(name, device):
    if device == "cpu":
        return f"CPU kernel, {_load.cpu_library().torchext_cpu_isa().decode()}"
    return "Triton kernel" if serves_cuda(name) else "CUDA kernel"
