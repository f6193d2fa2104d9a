"""NaN, infinities, both zeros, ties, and windows of nothing but padding: as torch has them."""

import pytest
import torch
import torch.nn.functional as F
from cases import LAYOUTS, SPECS, specials
from harness import (
    BACKENDS,
    all_dtypes,
    bits,
    call_of,
    check_accurate,
    each_case,
    params,
    same_bits,
)

# Triton's interpreter computes with numpy, which remarks on NaN.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

NAN, INF = float("nan"), float("inf")
WINDOW = ([1, 4], [1, 4], [0, 0], [1, 1], False)

each_backend = pytest.mark.parametrize("backend", params(BACKENDS), indirect=True)
both_layouts = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


@each_case(lambda op, case: 0 not in case.shape[:1] and max(case.shape, default=0) < 60)
def test_specials(op, case, backend):
    for dtype in all_dtypes(op, case, backend):
        call = call_of(op, case, dtype, specials)
        got = backend(op, *call.args)
        if op.startswith("max_pool2d") and not op.endswith("backward"):
            assert same_bits(got, call.torch), dtype  # the sign of a zero too
        else:
            check_accurate(got, call)


@each_backend
@both_layouts
@pytest.mark.parametrize(
    ("window", "winner"),
    [
        ([NAN, 1, NAN, 3], 2),  # the last NaN
        ([1, NAN, INF, 3], 1),
        ([5.0, 7, 7, 7], 1),  # the first of equals
        ([-0.0, 0.0, -1, 0.0], 0),  # zeros are equal, whatever their sign
        ([0.0, -0.0, -1, -0.0], 0),
        ([-INF, -INF, -INF, -INF], 0),
        ([-INF, -INF, -3, -INF], 2),
        ([1, INF, INF, NAN], 3),
        ([1e-45, 0, 1e-44, -1e-45], 2),  # subnormal numbers
    ],
)
def test_max_picks(window, winner, layout, backend):
    """Enough windows side by side to fill vectors in either layout, and a few more."""
    x = torch.tensor(window).repeat(1, 19, 2, 19)
    x = LAYOUTS[layout](x)
    expected = torch.tensor(window)[winner].expand(1, 19, 2, 19)
    y, offsets = backend("max_pool2d", x, *WINDOW)
    assert same_bits([y], [expected])
    assert (offsets == winner).all()
    assert same_bits(backend("max_pool2d_inference", x, *WINDOW), [expected])
    if backend.device == "cpu":
        by_torch, indices = F.max_pool2d(x, (1, 4), return_indices=True)
        assert same_bits([y], [by_torch])
        got = backend("max_pool2d_indices", offsets, [2, 76], *WINDOW)
        assert same_bits(got, [indices])


@each_backend
@both_layouts
def test_first_valid_tap_of_a_window_without_numbers(layout, backend):
    """All -inf, the padding too: the winner is the first tap inside the input."""
    x = LAYOUTS[layout](torch.full((1, 3, 5, 5), -INF))
    arguments = ([3, 3], [2, 2], [1, 1], [1, 1], False)
    y, offsets = backend("max_pool2d", x, *arguments)
    (indices,) = backend("max_pool2d_indices", offsets, [5, 5], *arguments)
    by_torch, expected = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert torch.equal(y.cpu(), by_torch)
    assert torch.equal(indices.cpu(), expected)


@each_backend
@both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_wholly_inside_the_padding(dtype, layout, backend):
    """torch's own kernels corrupt the heap here. No input is read: -inf, and no gradient."""
    shape, arguments = (3, 17, 1, 19), ([2, 3], [2, 3], [1, 1], [2, 1], False)
    x = LAYOUTS[layout](torch.randn(shape).to(dtype))
    y, offsets = backend("max_pool2d", x, *arguments)
    assert (y == -INF).all()  # one row: tap rows at -1 and 1
    assert same_bits(backend("max_pool2d_inference", x, *arguments), [y])
    (indices,) = backend("max_pool2d_indices", offsets, [1, 19], *arguments)
    assert ((indices >= 0) & (indices < 19)).all()
    grads = torch.ones_like(y)
    (grad_x,) = backend("max_pool2d_backward", grads, offsets, [1, 19], *arguments)
    assert grad_x.shape == x.shape
    assert not grad_x.any()


@each_backend
@pytest.mark.parametrize("op", ["avg_pool2d_inference", "adaptive_avg_pool2d_inference"])
def test_average_meets_infinities(op, backend):
    rest = ([1, 2], [1, 2], [0, 0], False, True, None) if op.startswith("avg") else ([1, 4],)
    x = torch.tensor([[[INF, 1.0, INF, -INF, NAN, 0.0, -INF, 2.0]]])
    (y,) = backend(op, x, *rest)
    assert same_bits([y], [torch.tensor([[[INF, NAN, NAN, -INF]]])])


@each_backend
def test_sums_of_half_precision_do_not_overflow(backend):
    """65504 is float16's largest number: the mean of four must not pass through their sum."""
    x = torch.full((1, 2, 4, 4), 65504.0, dtype=torch.float16)
    rest = ([2, 2], [2, 2], [0, 0], False, True, None)
    for y in backend("avg_pool2d", x, *rest) + backend("adaptive_avg_pool2d", x, [1, 1]):
        assert (y == 65504).all()


def test_specs_cover_the_special_values():
    """What test_specials draws from is in its tensors."""
    cases = [case for case in SPECS["max_pool2d"].cases if case.name == "primes"]
    (x, *_) = call_of("max_pool2d", cases[0], torch.float32, specials).args
    assert x.isnan().any() and x.isposinf().any() and x.isneginf().any()
    zeros = bits(x)[x == 0]
    assert zeros.unique().numel() == 2
