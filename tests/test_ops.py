"""Every op on every backend: as accurate as the error rule asks, exact where it can be, the same
bits in every layout, with any number of threads and every time."""

import pytest
import torch
from cases import SPECS, impulses, integers
from harness import (
    BACKENDS,
    all_dtypes,
    call_of,
    check_accurate,
    each_case,
    few_dtypes,
    rounded,
)

from torchext.ops import OPS


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
