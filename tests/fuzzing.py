"""Hypothesis settings and strategies that the property tests share."""

import functools
import os

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings

LONG = "TORCHEXT_TEST_LONG" in os.environ  # conftest.py sets it for --long


def examples(count):
    """So many examples, always the same ones; with --long two hundred times as many, random ones."""
    return settings(
        max_examples=count * 200 if LONG else count,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


HUGE = [2**31 - 1, 2**31, 2**62, 2**63 - 1]
sizes = st.integers(1, 9) | st.integers(10, 40)


def pairs(numbers):
    return st.lists(numbers, min_size=2, max_size=2)


@st.composite
def pools(draw, odd=0):
    """(shape, kernel_size, stride, padding, dilation, ceil_mode) that torch accepts.

    With `odd` in 1, 2, ... some are wrong: `odd` percent of the numbers.
    """

    def maybe(number, strange):
        return draw(strange) if draw(st.integers(0, 99)) < odd else number

    kernel = draw(pairs(st.integers(1, 5) | st.sampled_from([6, 7, 17])))
    stride = draw(pairs(st.integers(1, 5)))
    dilation = draw(st.just([1, 1]) | pairs(st.integers(1, 3)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    spatial = []
    for k, p, d in zip(kernel, padding, dilation, strict=True):
        least = max(1, (k - 1) * d + 1 - 2 * p)
        spatial.append(draw(st.integers(least, least + 12)))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,), (3,)]))
    shape = (*batch, draw(st.integers(1, 9) | st.sampled_from([16, 17, 33])), *spatial)
    strange = st.sampled_from([-1, 0, *HUGE]) | st.integers(0, 50)
    change = functools.partial(map, lambda n: maybe(n, strange))
    return (
        tuple(maybe(n, st.sampled_from([0, 1])) for n in shape),
        *([*change(numbers)] for numbers in (kernel, stride, padding, dilation)),
        draw(st.booleans()),
    )
