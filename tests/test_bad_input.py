"""Bad input: refused by every implementation alike (kernels, Triton, fakes), in words that name the
op and the argument, and never by a crash."""

import pytest
import torch
from cases import REFUSED
from harness import BACKENDS, EMULATOR, params
from torch._subclasses.fake_tensor import FakeTensorMode

import torchext
from torchext import emulator

refused = pytest.mark.parametrize(
    ("argument", "call"), [pytest.param(*rest, id=what) for what, *rest in REFUSED]
)


@pytest.mark.parametrize(
    ("argument", "call", "backend"),
    [
        pytest.param(argument, call, *one.values, marks=one.marks, id=f"{one.id}-{what}")
        for one in params(BACKENDS)
        for what, argument, call in REFUSED
        if one.values[0] is not EMULATOR or emulator.has(call[0])
    ],
)
def test_refused(argument, call, backend):
    backend.use()
    op, args = call
    with pytest.raises(RuntimeError, match=rf"{op}: {argument}: got .*, expected "):
        backend(op, *args)


@refused
def test_refused_by_fake(argument, call):
    op, args = call
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        with pytest.raises(RuntimeError, match=rf"{op}: {argument}: got .*, expected "):
            getattr(torch.ops.torchext, op)(*args)


def test_helpers_of_two_families_are_not_merged():
    """The linker takes any one of two inline functions of the same name."""
    x, other = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 1, 1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="weight: got dtype Double, expected the input's"):
        torchext.nn.functional.conv2d(x, other)
    with pytest.raises(RuntimeError, match="key: got dtype Double, expected the query's"):
        torchext.nn.functional.scaled_dot_product_attention(x, x.double(), x)
