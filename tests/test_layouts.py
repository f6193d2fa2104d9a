"""The same bits for every layout of the same values, any number of threads, and every time."""

import pytest
import torch
from cases import LAYOUTS, SPECS, integers, named, normal
from harness import (
    BACKENDS,
    EMULATOR,
    TRITON,
    best_isa,
    call_of,
    each_case,
    fake_outputs,
    few_dtypes,
    map_tensors,
    same_bits,
)

# Shapes with no size 1, so that every layout is another one; in 3 dimensions too.
LAID_OUT = {
    "primes",
    "seven",
    "tall-kernel",
    "over-256-taps",
    "padded-small",
    "unbatched",
    "columns-65",
    "even-columns-33",
    "channels-17",
    "dilated",
    "window-in-padding",
    "counted-False-None-contiguous",
    "resnet-global",
    "upsampled",
    "laid-out",
}


def is_laid_out(op, case):
    return case in named(op, LAID_OUT)


def laid_out(args, layout):
    """The arguments in a layout, and dense ones of the same values."""
    args = map_tensors(LAYOUTS[layout], args)
    return args, map_tensors(torch.Tensor.contiguous, args)


def kind(x):
    return x.shape, x.stride(), x.dtype


@each_case(is_laid_out, interpreted={"padded-small", "upsampled", "laid-out"})
def test_layouts_agree(op, case, backend):
    spec = SPECS[op]
    values = integers if spec.reordered else normal
    for layout in LAYOUTS:
        for dtype in few_dtypes(op, backend):
            args, dense = laid_out(call_of(op, case, dtype, values).args, layout)
            got = backend(op, *args)
            expected = backend(op, *dense)
            if spec.reordered and not spec.exact(case):
                torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-3)
            else:
                assert same_bits(got, expected), (layout, dtype)
            promised = fake_outputs(op, args, backend.namespace)
            assert [*map(kind, got)] == [*map(kind, promised)], (layout, dtype)


@pytest.fixture
def threads():
    """Restores the number of threads, which the test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@each_case(lambda op, case: case.layout in ("contiguous", "channels_last"), [best_isa()])
def test_threads_agree(op, case, backend, threads):
    args = call_of(op, case, torch.float32).args
    alone = backend(op, *args)
    for n in (2, 3):
        torch.set_num_threads(n)
        assert same_bits(backend(op, *args), alone), n


@each_case(is_laid_out, [one for one in BACKENDS if one not in (EMULATOR, TRITON)])
def test_repeats_agree(op, case, backend, threads):
    """Twenty times: a race shows only now and then."""
    torch.set_num_threads(2)
    args = call_of(op, case, torch.float32).args
    first = backend(op, *args)
    for _ in range(20):
        assert same_bits(backend(op, *args), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_larger_than_the_caches(dtype, cpu, threads):
    """Written past the caches, and complete when the call returns."""
    torch.set_num_threads(2)
    channels = 128 // dtype.itemsize * 2
    x = torch.randn(1, channels, 452, 454).to(dtype).to(memory_format=torch.channels_last)
    for window in (2, 3):
        got = torch.ops.torchext.max_pool2d_inference(x, window, window, 0, 1, False)
        assert torch.equal(got, torch.nn.functional.max_pool2d(x, window))
