"""`torchext verify`: each layer of a model, and the whole, against plain PyTorch in float64.

A layer gets what the float64 model gives it, rounded to float32. Allowed is the error rule of
docs/numerics.md: twice PyTorch's own error in float32, and what rounding costs in any case.
"""

import contextlib
import copy
import math
from dataclasses import asdict, dataclass

import torch

from ._command import Parser, print_json, print_table, whole
from ._layers import tensors_in
from ._model import input_shape, load, random_input, traced
from .bench.gate import EPS32, relative_error
from .ops._op import disabled

COLUMNS = {
    "layer": "",
    "type": "",
    "error": ".1e",
    "PyTorch's": ".1e",
    "ratio": ".2f",
    "of allowed": ".0%",
    "": "",
}


@dataclass
class Verdict:
    """How far a layer's output is from float64, as part of its largest value."""

    name: str
    type: str
    error: float
    torch_error: float
    allowed: float

    @property
    def ratio(self):
        """In units of PyTorch's own error; None where that is none."""
        return self.error / self.torch_error if self.torch_error else None

    @property
    def part(self):
        return self.error / self.allowed

    @property
    def right(self):
        return self.error <= self.allowed


def plain(model):
    """A copy whose layers are torch.nn's own; to be run with torchext's ops disabled."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module).__module__.startswith("torchext.nn."):
            theirs = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn."))
            if theirs is not torch.nn.Module:
                module.__class__ = theirs
    return model


@torch.no_grad()
def unlike(model):
    """Makes weights and statistics that start alike, as ones or zeros, differ: or who uses the
    wrong one, or none, would not be found out."""
    for value in model.state_dict().values():
        if value.is_floating_point() and value.numel() > 1 and value.min() == value.max():
            value += torch.rand_like(value).sub_(0.5).mul_(0.5)
    return model


class Referee:
    """Compares calls of a module of ours with those of its two plain twins."""

    def __init__(self, model):
        self.model, self.single = model, plain(model)
        self.double = plain(model).double()

    def compare(self, name, inputs, sum_length, run=None):
        """The Verdict on the module of this name, or on what `run` makes instead of it; `inputs`
        are (args, kwargs) of a call."""
        ours = _run(run or self.model.get_submodule(name), inputs, torch.float32)
        with disabled():
            single = _run(self.single.get_submodule(name), inputs, torch.float32)
            double = _run(self.double.get_submodule(name), inputs, torch.float64)
        error = max(map(relative_error, ours, double))
        torch_error = max(map(relative_error, single, double))
        allowed = max(2 * torch_error, 4 * EPS32, EPS32 * math.sqrt(sum_length))
        kind = type(self.model.get_submodule(name)).__name__
        return Verdict(name or "(the whole)", kind, error, torch_error, allowed)

    def inputs_of(self, names, x):
        """{name: (args, kwargs) of each call of these modules} when the float64 model gets x."""
        found = {name: [] for name in names}

        def keep(name):
            def hook(module, args, kwargs):
                found[name].append(_cast((args, kwargs), torch.float32))

            return hook

        with contextlib.ExitStack() as stack:
            for name in names:
                module = self.double.get_submodule(name)
                handle = module.register_forward_pre_hook(keep(name), with_kwargs=True)
                stack.callback(handle.remove)
            with disabled():
                self.double(x.double())
        return found


def _run(module, inputs, dtype):
    args, kwargs = _cast(inputs, dtype)
    return tensors_in(module(*args, **kwargs))


def _cast(value, dtype):
    """A copy, which an in-place layer may overwrite."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype, copy=True) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(part, dtype) for part in value)
    if isinstance(value, dict):
        return {key: _cast(part, dtype) for key, part in value.items()}
    return value


@torch.no_grad()
def verdicts(name, model, x):
    """Of each layer, the worst call's; then of the whole."""
    lengths = sum_lengths(traced(name, model, list(x.shape)))
    referee = Referee(model)
    for layer, inputs in referee.inputs_of(lengths, x).items():
        found = [referee.compare(layer, one, lengths[layer]) for one in inputs]
        yield max(found, key=lambda verdict: verdict.part)
    yield referee.compare("", ((x,), {}), max(lengths.values()))


def sum_lengths(root):
    """{layer: the multiply-adds behind each of its outputs} of a traced model"""
    return {
        call.name: call.cost / 2 / sum(map(math.prod, call.outputs))
        for call in root.tree()
        if call.name and call.outputs and (not call.calls or call.own_cost)
    }


def main(argv):
    parser = Parser("torchext verify", __doc__)
    parser.add_model()
    parser.add_input()
    parser.add_weights()
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="default: 0")
    parser.add_json()
    options = parser.parse_args(argv)
    model = load(options.model, options.weights, options.seed)
    model = model if options.weights else unlike(model)
    x = random_input(input_shape(model, options.model, options.batch, options.image_size))
    found = list(verdicts(options.model, model, x))
    wrong = sum(not verdict.right for verdict in found)
    if options.json:
        layers = [asdict(v) | {"ratio": v.ratio, "right": v.right} for v in found]
        print_json({"model": options.model, "layers": layers, "wrong": wrong})
    else:
        rows = [
            (v.name, v.type, v.error, v.torch_error, v.ratio, v.part, "ok" if v.right else "WRONG")
            for v in found
        ]
        print_table(COLUMNS, rows)
        print("all right" if not wrong else f"{wrong} WRONG")
    return 1 if wrong else 0
