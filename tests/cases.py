"""What every op is tested on, put together from tests/families: one file per family of ops.

SPECS holds one Spec per op of torchext.ops.OPS; a new op is covered by every test once it has its
cases there. REFUSED is the table of bad input, FUZZED has Hypothesis strategies for cases.
"""

import importlib
import pkgutil
import zlib

import families
import torch
from families.case import (  # noqa: F401 - the tests take them from here
    LAYOUTS,
    Case,
    Spec,
    impulses,
    integers,
    normal,
    specials,
)

from torchext.ops import _activation

SPECS, REFUSED, FUZZED = {}, [], {}
for _found in pkgutil.iter_modules(families.__path__):
    _family = importlib.import_module(f"families.{_found.name}")
    SPECS |= getattr(_family, "SPECS", {})
    REFUSED += getattr(_family, "REFUSED", [])
    FUZZED |= getattr(_family, "FUZZED", {})


def make_arguments(op, case, dtype, values=normal):
    """The arguments of one call of `op`, on the CPU; the same ones at every call."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{op} {case.name}".encode()))
    layout = LAYOUTS[case.layout]

    def make(shape, dtype=dtype):
        return layout(values(shape, dtype, generator))

    def make_weight(shape):
        """Finite: 0 * inf at a padded border is NaN or nothing, depending on torch's backend."""
        return layout((normal if values is specials else values)(shape, dtype, generator))

    make.weight = make_weight
    return SPECS[op].arguments(make, make(case.shape), *case.arguments)


def named(op, names):
    """An op's cases of these names: a few that stand for all. All, if it has none of them."""
    return [case for case in SPECS[op].cases if case.name in names] or [*SPECS[op].cases]


# What Triton's interpreter runs too: it takes 100,000 times as long as a kernel.
INTERPRETED = {
    "one-pixel",
    "kernel-is-input",
    "ceil-cut-padded",
    "padded-small",
    "padded-small-channels_last",
    "tall-kernel",
    "flat-kernel-channels_last",
    "stride-over-kernel-channels_last",
    "empty-batch",
    "unbatched",
    "columns-17",
    "channels-17",
    "dilated-down",
    "window-in-padding-columns-channels_last",
    "counted-False-7-channels_last",
    "counted-True-None-contiguous",
    "one-window-over-256-taps",
    "one-channel",
    "upsampled",
    "row-of-columns",
    "no-outputs",
    "multiplier",
    "multiplier-channels_last",
    "grouped-strided-channels_last",
    "many-pixels",
    "many-pixels-dw",
    "many-pixels-dw-channels_last",
    "channels-33",
    "decoder",
    "dilated",
    "six-dimensions",
    "no-weight",
    "small-rows",
    "small-bare",
    "small-log",
    "small-inner",
    "small-none",
    "small-probabilities",
    "small-channels_last",
    "small-inference",
    *(f"kind-{name}" for name in _activation.KINDS),
    "one-token",
    "one-matrix",
    "dropout-grouped",
    "grouped",
    "bare",
    "tiny",
    "tiny-reversed",
    "tiny-packed",
    "tiny-biasless",
}
