"""Shapes and strides: the C++ rules, the fakes' Python formula and torch agree, or all refuse.

Stricter than torch is allowed where torch returns nonsense; never laxer.
"""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from families.pooling import LARGE, pairs, pools
from fuzzing import examples
from hypothesis import assume, given
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from torchext import _host

aten = torch.ops.aten


@st.composite
def strided(draw, shape):
    """Strides for a shape: dense in any order of the dimensions, with gaps, or anything at all."""
    if draw(st.integers(0, 4)) == 0:
        return tuple(draw(st.integers(0, 40)) for _ in shape)
    order = [*range(len(shape))]
    channels_last = [len(shape) - 3, len(shape) - 1, len(shape) - 2, *range(len(shape) - 3)]
    order = draw(st.sampled_from([order[::-1], channels_last]) | st.permutations(order))
    strides, step = [0] * len(shape), draw(st.sampled_from([1, 1, 1, 2]))
    for d in order:
        strides[d] = step
        # As some of torch's own functions do, a size of 0 or 1 may add to the strides or not.
        step *= max(shape[d], 1) + draw(st.sampled_from([0, 0, 0, 1]))
    return tuple(strides)


def meta(shape, strides):
    return torch.empty_strided(shape, strides, device="meta")


def told(function, *args):
    """(sizes, strides) that a function promises, or None if it refuses its arguments."""
    try:
        y = function(*args)
    except (RuntimeError, IndexError):
        return None
    if isinstance(y, tuple) and isinstance(y[0], list):  # _host's: (sizes, strides)
        return tuple(map(tuple, y))
    y = y[0] if isinstance(y, tuple) else y
    return tuple(y.shape), y.stride()


def check_agreement(ours, formula, theirs, stricter):
    # Not every overflow is the formula's business: it works with symbols of any size.
    assert ours == formula or (ours is None and stricter)
    if theirs is None or ours is None:
        assert ours is None, "laxer than torch"
        assert theirs is None or stricter, "stricter than torch for no reason"
    elif 0 in theirs[0]:  # strides of nothing mean nothing
        assert ours[0] == theirs[0]
    else:
        assert ours == theirs


def is_huge(*numbers):
    """Beyond what torch checks: its arithmetic wraps around."""
    return max(numbers) > 2**30


@examples(500)
@given(st.data(), pools(odd=4))
def test_max_pool2d(data, pool):
    shape, *arguments = pool
    strides = data.draw(strided(shape))
    ours = told(_host.pool2d_shape, "max_pool2d", shape, strides, *arguments)
    formula = told(torch.ops.torchext.max_pool2d_inference, meta(shape, strides), *arguments)
    theirs = told(aten.max_pool2d_with_indices, meta(shape, strides), *arguments)
    check_agreement(ours, formula, theirs, is_huge(*itertools.chain(*arguments[:4])))
    trained = told(torch.ops.torchext.max_pool2d, meta(shape, strides), *arguments)
    assert trained == formula or is_huge(*arguments[0])  # more taps than its offsets can tell apart


@examples(300)
@given(st.data(), pools(odd=4), st.booleans(), st.sampled_from([None, None, 1, 3, 0, -2]))
def test_avg_pool2d(data, pool, count_include_pad, divisor):
    shape, kernel_size, stride, padding, _, ceil_mode = pool
    strides = data.draw(strided(shape))
    arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor)
    formula = told(torch.ops.torchext.avg_pool2d, meta(shape, strides), *arguments)
    theirs = told(aten.avg_pool2d, meta(shape, strides), *arguments)
    if divisor == 0:  # not a matter of shapes: the ops check it, _host doesn't see it
        assert formula is None
        return
    args = (kernel_size, stride, padding, [1, 1], ceil_mode)
    ours = told(_host.pool2d_shape, "avg_pool2d", shape, strides, *args)
    check_agreement(ours, formula, theirs, is_huge(*kernel_size, *stride, *padding))


@examples(200)
@given(st.data(), pools(odd=4), pairs(st.integers(0, 9) | st.sampled_from([-1, *LARGE])))
def test_adaptive_avg_pool2d(data, pool, output_size):
    shape = pool[0]
    strides = data.draw(strided(shape))
    ours = told(_host.adaptive_pool2d_shape, "adaptive_avg_pool2d", shape, strides, output_size)
    formula = told(torch.ops.torchext.adaptive_avg_pool2d, meta(shape, strides), output_size)
    theirs = told(aten._adaptive_avg_pool2d, meta(shape, strides), output_size)
    if is_huge(
        *output_size
    ):  # the rule knows no types: what fits 64 bits in bytes is torch's business
        assert None in (ours, formula) or ours == formula
        return
    # torch's kernel refuses an input without elements in a plane, its meta function forgets to.
    check_agreement(ours, formula, theirs, 0 in shape[-3:])


@examples(100)
@given(st.data(), pools())
def test_gradients_have_their_inputs_shape(data, pool):
    """A gradient's promised shape and strides follow from the input, whatever its layout."""
    shape, *arguments = pool
    x = meta(shape, data.draw(strided(shape)))
    x = x.requires_grad_()
    y, _ = torch.ops.torchext.max_pool2d(x, *arguments)
    (grad_x,) = torch.autograd.grad(y, x, torch.empty_like(y))
    assert grad_x.shape == x.shape
    channels_last = torch._prims_common.suggest_memory_format(x) is torch.channels_last
    expected = torch.channels_last if x.dim() == 4 and channels_last else torch.contiguous_format
    assert grad_x.is_contiguous(memory_format=expected)


@examples(30)
@given(pools())
def test_symbolic_sizes(pool):
    """The same formula over the symbols that torch.compile and torch.export leave open."""
    shape, *arguments = pool
    assume(min(shape) > 1)  # 0 and 1 never become symbols
    symbols = StatelessSymbolicContext([DimDynamic.DYNAMIC] * len(shape))
    x = torch.empty(shape)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        x = mode.from_tensor(x, symbolic_context=symbols)
        y = torch.ops.torchext.max_pool2d_inference(x, *arguments)
    assert all(isinstance(n, torch.SymInt) for n in x.shape)
    expected = _host.pool2d_shape("max_pool2d", shape, torch.empty(shape).stride(), *arguments)
    assert ([*map(int, y.shape)], [*map(int, y.stride())]) == expected


@pytest.mark.parametrize(
    ("shape", "strides", "channels_last"),
    [
        ((2, 3, 4, 5), (60, 1, 15, 3), True),
        ((2, 3, 4, 5), (60, 20, 5, 1), False),
        ((2, 1, 4, 5), (20, 1, 5, 1), True),  # C = 1: only the strides of size-1 dims tell
        ((2, 1, 4, 5), (20, 20, 5, 1), False),
        ((2, 3, 1, 1), (3, 1, 3, 3), True),  # H = W = 1
        ((2, 3, 1, 1), (3, 1, 1, 1), False),
        ((1, 1, 1, 1), (1, 1, 1, 1), False),
        ((2, 3, 4, 5), (0, 1, 15, 3), False),  # expanded batch
        ((2, 3, 4, 5), (120, 2, 30, 6), True),  # every other channel
        ((3, 4, 5), (1, 15, 3), False),  # unbatched: always contiguous
    ],
)
def test_ambiguous_strides(shape, strides, channels_last):
    """Named examples of the rule, which is torch's (the properties above compare with it)."""
    arguments = ([1, 1], [1, 1], [0, 0], [1, 1], False)
    _, got = _host.pool2d_shape("max_pool2d", shape, strides, *arguments)
    expected = torch.empty(shape)
    if channels_last:
        expected = torch.empty(shape, memory_format=torch.channels_last)
    assert tuple(got) == expected.stride()
    theirs = aten.max_pool2d_with_indices(meta(shape, strides), *arguments)[0]
    assert tuple(got) == theirs.stride()


@pytest.mark.parametrize("output_size", [[0, 2], [2, 0], [0, 0]])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_without_elements(layout, output_size):
    """Fake and kernel promise the same strides even where there is nothing to stride over."""
    x = torch.empty(2, 3, 4, 4).contiguous(memory_format=layout)
    ours = told(_host.adaptive_pool2d_shape, "op", x.shape, x.stride(), output_size)
    for device in ("cpu", "meta"):
        assert told(torch.ops.torchext.adaptive_avg_pool2d, x.to(device), output_size) == ours
    assert told(aten._adaptive_avg_pool2d, x, output_size) == ours
