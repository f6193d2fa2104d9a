"""Hypothesis settings and strategies that the property tests share."""

import os

import hypothesis.strategies as st
from cases import LAYOUTS, SPECS, Case
from hypothesis import HealthCheck, settings

LONG = "TORCHEXT_TEST_LONG" in os.environ  # conftest.py sets it for --long
HUGE = [2**31 - 1, 2**31, 2**62, 2**63 - 1]


def examples(count):
    """So many examples, always the same; with --long twenty-five times as many, random ones."""
    return settings(
        max_examples=count * 25 if LONG else count,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def pairs(numbers):
    return st.lists(numbers, min_size=2, max_size=2)


def channels(most):
    return st.integers(1, min(9, most)) | st.sampled_from([min(n, most) for n in (16, 17, 33)])


@st.composite
def pools(draw, odd=0, most=33):
    """(shape, kernel_size, stride, padding, dilation, ceil_mode) that torch accepts.

    `odd` percent of the numbers are any number instead. `most` bounds channels and spare pixels.
    """
    kernel = draw(pairs(st.integers(1, 5) | st.sampled_from([6, 7, 17] if most > 5 else [2])))
    stride = draw(pairs(st.integers(1, 5)))
    dilation = draw(st.just([1, 1]) | pairs(st.integers(1, 3)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    ceil_mode = draw(st.booleans())
    spatial = []
    for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True):
        least = (k - 1) * d + 1 - 2 * p - (s - 1 if ceil_mode else 0)
        spatial.append(draw(st.integers(max(1, least), max(1, least) + min(12, most))))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (3,)]))
    shape = (*batch, draw(channels(most)), *spatial)
    if not odd:
        return shape, kernel, stride, padding, dilation, ceil_mode

    def perhaps_odd(numbers, odd_ones):
        return [draw(odd_ones) if draw(st.integers(0, 99)) < odd else n for n in numbers]

    anything = st.sampled_from([-1, 0, *HUGE]) | st.integers(0, 50)
    arguments = [perhaps_odd(numbers, anything) for numbers in (kernel, stride, padding, dilation)]
    return tuple(perhaps_odd(shape, st.sampled_from([0, 1]))), *arguments, ceil_mode


@st.composite
def _max_pools(draw, most):
    shape, *arguments = draw(pools(most=most))
    return shape, tuple(arguments)


@st.composite
def _avg_pools(draw, most):
    shape, kernel_size, stride, padding, _, ceil_mode = draw(pools(most=most))
    # The window may dilate where this one does not: as long as it fits, the shape is right.
    divisor = draw(st.sampled_from([None, None, 1, 5, -3]))
    return shape, (kernel_size, stride, padding, ceil_mode, draw(st.booleans()), divisor)


@st.composite
def _adaptive_pools(draw, most):
    batch = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    size = st.integers(1, min(20, most))
    shape = (*batch, draw(channels(most)), draw(size), draw(size))
    return shape, (draw(pairs(size)),)


FAMILIES = {"max_": _max_pools, "avg_": _avg_pools, "adaptive_avg_": _adaptive_pools}


@st.composite
def cases(draw, op, most=33):
    """A Case for the op; one of its own in another layout, where no family above knows better."""
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    for prefix, family in FAMILIES.items():
        if op.startswith(prefix):
            return Case("fuzzed", *draw(family(most)), layout)
    case = draw(st.sampled_from(SPECS[op].cases))
    return Case(case.name, case.shape, case.arguments, layout)
