"""torch's FLOP counter knows every op, whichever was imported first."""

import pytest
import torch
from cases import SPECS
from harness import call_of
from stack import run_python
from torch.utils.flop_counter import FlopCounterMode

from torchext.ops import OPS, Op, _op


def count(function, args):
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


def args_of_forward(op):
    """Where they begin among those of a gradient: after the gradients of the outputs."""
    arguments = getattr(torch.ops.torchext, op).default._schema.arguments
    return sum(argument.name.startswith("grad_") for argument in arguments)


@pytest.mark.parametrize("op", OPS)
def test_flops_are_the_decompositions(op):
    for case in SPECS[op].cases[:3]:
        args = call_of(op, case, torch.float32).args
        kernel = getattr(torch.ops.torchext, op)
        expected = count(OPS[op].decomposition, args)
        if "saved" in OPS[op].constants:  # the decomposition does the forward op again
            forward = op.removesuffix("_backward")
            expected -= count(OPS[forward].decomposition, args[args_of_forward(op) : -1])
        assert count(kernel, args) == expected


def test_formula_is_used(monkeypatch):
    """Pooling counts nothing, as in torch; here an op that counts."""
    library = torch.library.Library("torchext_flops", "DEF")
    library.define("product(Tensor a, Tensor b) -> Tensor")
    monkeypatch.setattr(_op, "OPS", {})  # not one of the ops
    monkeypatch.setattr(_op._load, "why_not_loaded", {"cpu": "not registered as torchext::product"})
    op = Op(
        name="product",
        decomposition=torch.mm,
        fake=lambda a, b: a.new_empty(a.shape[0], b.shape[1]),
        flops=lambda a, b: 2 * a[0] * a[1] * b[1],  # of shapes
    )
    _op.register(op, "torchext_flops")
    library.impl("product", torch.mm, "CPU")
    args = torch.randn(3, 5), torch.randn(5, 7)
    assert count(torch.ops.torchext_flops.product, args) == count(torch.mm, args) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("order", ["counter first", "torchext first"])
def test_registered_in_any_order(order):
    imports = ["import torch.utils.flop_counter", "import torchext"]
    if order == "torchext first":
        imports.reverse()
    code = """
known = torch.utils.flop_counter.flop_registry
assert all(getattr(torch.ops.torchext, op) in known for op in torchext.ops.OPS)
"""
    run_python("-c", "\n".join(imports) + code)
