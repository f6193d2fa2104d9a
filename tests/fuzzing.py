"""Hypothesis settings and strategies that the property tests share."""

import os

import hypothesis.strategies as st
from cases import FUZZED, LAYOUTS, SPECS, Case
from hypothesis import HealthCheck, settings

LONG = "TORCHEXT_TEST_LONG" in os.environ  # conftest.py sets it for --long


def examples(count):
    """So many examples, always the same; with --long twenty-five times as many, random ones."""
    return settings(
        max_examples=count * 25 if LONG else count,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def cases(draw, op, most=33):
    """A Case for the op; one of its own in another layout, where its family has no strategy."""
    repeating = () if SPECS[op].repeats else ("expanded", "overlapping")
    layouts = [name for name in sorted(LAYOUTS) if not name.startswith(repeating)]
    layout = draw(st.sampled_from(layouts))
    if op in FUZZED:
        return Case("fuzzed", *draw(FUZZED[op](most)), layout)
    case = draw(st.sampled_from(SPECS[op].cases))
    return Case(case.name, case.shape, case.arguments, layout)
