"""Every op on every backend: as accurate as the error rule asks, exact where it can be, the same
bits in every layout, with any number of threads and every time."""

import pytest
import torch
from cases import SPECS, impulses, integers
from harness import (
    BACKENDS,
    CPU,
    PAIRS,
    all_dtypes,
    best_isa,
    call_of,
    check_accurate,
    each_case,
    few_dtypes,
    rounded,
)

from torchext import _load
from torchext.ops import OPS
from torchext.ops._packed import pack, suits_pairs, unpack


@pytest.mark.parametrize("one", BACKENDS, ids=str)
def test_backend_is_here(one):
    """Each backend that this machine lacks is one visible skip; the other tests leave it out."""
    if one.why_not():
        pytest.skip(one.why_not())


def test_every_op_has_cases():
    assert set(SPECS) == set(OPS)
    assert all(spec.cases for spec in SPECS.values())
    for spec in SPECS.values():
        names = [case.name for case in spec.cases]
        assert len(names) == len(set(names))


@each_case()
def test_error_rule(op, case, backend):
    for dtype in all_dtypes(op, case, backend):
        call = call_of(op, case, dtype)
        check_accurate(backend(op, *call.args), call)


def check_exact(op, case, backend, values):
    """No rounding on the way, so a wrong index has nothing to hide behind."""
    for dtype in few_dtypes(op, backend):
        call = call_of(op, case, dtype, values)
        for y, reference in zip(backend(op, *call.args), call.reference, strict=True):
            assert torch.equal(y.cpu(), rounded(reference, dtype)), dtype


@each_case(lambda op, case: SPECS[op].exact(case))
def test_integers_are_exact(op, case, backend):
    check_exact(op, case, backend, integers)


@each_case(lambda op, case: SPECS[op].impulses(case))
def test_impulses_are_exact(op, case, backend):
    check_exact(op, case, backend, impulses)


@pytest.fixture
def pairs():
    """The ISA that multiplies pairs of bf16, in use; the test may change it."""
    (backend,) = (one for one in CPU if one.isa == PAIRS)
    if backend.why_not():
        pytest.skip(backend.why_not())
    backend.use()
    yield
    best_isa().use()


@pytest.mark.parametrize("groups", [1, 2])
def test_pairs_are_as_the_weight(groups):
    weight = torch.randn((70, 6, 3, 2)).bfloat16()
    panels = pack(weight, groups, in_one=2)
    assert panels.dtype is torch.bfloat16
    assert torch.equal(unpack(panels, weight.shape, groups, weight.dtype), weight)


def test_pairs_are_for_their_isa_and_type(pairs):
    x, weight = torch.randn((3, 8)).bfloat16(), torch.randn((5, 8)).bfloat16()
    op, panels = torch.ops.torchext.linear_packed_inference, pack(weight, in_one=2)
    assert suits_pairs(weight.dtype, 8) and not suits_pairs(weight.dtype, 7)
    assert not suits_pairs(torch.float32, 8)
    torch.testing.assert_close(op(x, panels, 5, None, None, 0), x @ weight.T)
    with pytest.raises(RuntimeError, match="panels: got dtype BFloat16, expected Float"):
        op(x.float(), panels, 5, None, None, 0)
    with pytest.raises(RuntimeError, match="panels: got dtype BFloat16, expected Float"):
        op(x[:, :7], panels, 5, None, None, 0)
    with pytest.raises(RuntimeError, match="panels: got shape"):
        op(x, panels[1:], 5, None, None, 0)
    _load.use_isa("avx512")
    assert not suits_pairs(weight.dtype, 8)
    with pytest.raises(RuntimeError, match="panels: got pairs of bfloat16, expected Float where"):
        op(x, panels, 5, None, None, 0)
