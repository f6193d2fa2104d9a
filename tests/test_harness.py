"""The tests' own tools: fresh memory is NaN, and the error rule sees what is wrong."""

import ctypes
from dataclasses import replace

import poison
import pytest
import torch
from cases import LAYOUTS, SPECS
from harness import FLOATS, allowed_error, best_isa, call_of, check_accurate, same_bits

(PRIMES,) = (case for case in SPECS["avg_pool2d"].cases if case.name == "primes")


@pytest.mark.parametrize("dtype", FLOATS)
def test_fresh_tensors_are_nan(dtype):
    assert torch.empty(5, 7, dtype=dtype).isnan().all()
    assert (torch.empty(5, dtype=torch.uint8) == 255).all()


@pytest.mark.parametrize("elements", [1, 5, 17, 1000, 100_000])
def test_the_library_allocates_nan(elements):
    """Through the very function that the library's slot points at."""
    size, stride = (ctypes.c_int64 * 1)(elements), (ctypes.c_int64 * 1)(1)
    handle = ctypes.c_void_p()
    float32, cpu = 6, 0
    assert poison.empty_filled(1, size, stride, float32, cpu, 0, ctypes.byref(handle)) == 0
    address, bytes_ = poison.data_of(handle)
    assert bytes_ == 4 * elements
    assert ctypes.string_at(address, bytes_) == b"\xff" * bytes_
    poison.delete(handle)


@pytest.mark.parametrize("op", SPECS)
def test_every_output_was_nan(op):
    """The memory of each of the op's outputs is what the wrapper filled, before the kernel."""
    args = call_of(op, SPECS[op].cases[0], torch.float32).args
    poison.fills.clear()
    for y in best_isa()(op, *args):
        assert (y.data_ptr(), y.numel() * y.itemsize) in poison.fills


def test_accurate_results_pass():
    call = call_of("avg_pool2d", PRIMES, torch.float32)
    check_accurate(call.torch, call)
    check_accurate([call.reference[0].float()], call)


def _border(y):
    y[..., -1, -1] *= 1 + 1e-5


def _nan(y):
    y[0, 0, 0, 0] = torch.nan


def _infinity(y):
    y[0, 0, 0, 0] = torch.inf


@pytest.mark.parametrize("spoil", [_border, _nan, _infinity])
def test_wrong_values_fail(spoil):
    call = call_of("avg_pool2d", PRIMES, torch.float32)
    y = call.torch[0].clone()
    spoil(y)
    with pytest.raises(AssertionError):
        check_accurate([y], call)


def test_wrong_kinds_fail():
    call = call_of("avg_pool2d", PRIMES, torch.float32)
    for y in (call.torch[0].double(), call.torch[0][..., :-1]):
        with pytest.raises(AssertionError):
            check_accurate([y], call)
    missing_infinity = replace(call, reference=(call.reference[0] * torch.inf,))
    with pytest.raises(AssertionError):
        check_accurate(call.torch, missing_infinity)


def test_allowed_error():
    """The rule's four terms, each where it is the largest."""
    assert allowed_error(torch.float32, 1, 1e-3) == 2e-3
    assert allowed_error(torch.float32, 1, 0) == 4 * 2**-23
    assert allowed_error(torch.float32, 100, 0) == 10 * 2**-23
    assert allowed_error(torch.bfloat16, 100, 0) == 2**-8
    assert allowed_error(torch.float64, 1, 0) == 4 * 2**-52


def test_bits_tell_zeros_apart():
    assert not same_bits([torch.tensor(0.0)], [torch.tensor(-0.0)])
    assert same_bits([torch.tensor(torch.nan)], [-torch.tensor(torch.nan)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 5, 7), (1, 1, 1, 1), (2, 1, 4, 4)])
def test_layouts_keep_the_shape(layout, shape):
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    y = LAYOUTS[layout](x)
    assert y.shape == x.shape
    assert not y.isnan().any()
    if "expanded" not in layout and layout != "overlapping":
        assert torch.equal(x, y)
