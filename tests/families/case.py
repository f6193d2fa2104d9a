"""How the families in this folder describe what their ops are tested on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, eq=False)  # the same object is the same case
class Case:
    """One call: an input of `shape` and `layout`, and the arguments after it in the op's schema."""

    name: str
    shape: tuple
    arguments: tuple
    layout: str = "contiguous"


@dataclass(frozen=True)
class Spec:
    """How an op is tested.

    arguments  (values, x, *case.arguments) -> the op's arguments; `values` makes further tensors
    terms      (shape of x, *case.arguments) -> K, the length of the op's longest sum
    exact      (case) -> whether integers give results that every floating type holds exactly
    impulses   (case) -> whether zeros and ones do
    repeats    equal inputs leave more than rounding errors: layouts that repeat them are fuzzed
    cancels    sums may, and then it is their terms' size that counts
    reordered  layouts may add up in another order: the same bits only where sums are exact
    mixes      an infinity makes NaN of outputs that don't depend on it
    slack      times torch's own error that is allowed: 3 for gradients of weights
    narrows    torch's own kernels round factors of products in between (probabilities) to the type
               that is stored, which decompositions do not: so does the measure of torch's error
    """

    cases: tuple
    arguments: Callable = lambda values, x, *rest: (x, *rest)
    terms: Callable = lambda shape, *rest: 1
    exact: Callable = lambda case: True
    impulses: Callable = lambda case: True
    repeats: bool = True
    reordered: bool = False
    cancels: bool = False
    mixes: bool = False
    slack: int = 2
    narrows: bool = False


# Layouts: functions that lay a dense tensor's values out otherwise. Memory that is not part of the
# tensor is NaN (255 in bytes), so that a kernel that reads it is found out. The expanded and the
# overlapping ones repeat values, as they must. Channels are dimension -3; a tensor of fewer
# dimensions than a layout speaks of stays as it is.


def _ones(*shape, like):
    """Memory with all bits set: NaN, 255 or -1."""
    size = math.prod(shape) * like.element_size()
    return torch.full((size,), 255, dtype=torch.uint8).view(like.dtype).view(shape)


def _channels_last(x):
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def _misaligned(x):
    memory = _ones(x.numel() + 1, like=x)
    return memory[1:].view(x.shape).copy_(x)


def _sliced(x):
    memory = _ones(*(n + 2 for n in x.shape), like=x)
    return memory[(slice(1, -1),) * x.dim()].copy_(x)


def _every_other(x):
    memory = _ones(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1], like=x)
    return memory[..., ::2, ::2].copy_(x)


def _every_other_channel(x):
    *batch, C, H, W = x.shape
    memory = _ones(*batch, H, W, 2 * C, like=x).movedim(-1, -3)
    return memory[..., ::2, :, :].copy_(x)


def _overlapping(x):
    strides = tuple(range(x.dim(), 0, -1))
    while sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True)) >= x.numel():
        strides = tuple(max(step - 1, 0) for step in strides)
    return x.reshape(-1).as_strided(x.shape, strides)


_LAYOUTS = {  # name: (the least dimensions, function)
    "contiguous": (0, torch.Tensor.contiguous),
    "channels_last": (3, _channels_last),
    "misaligned": (0, _misaligned),
    "channels_last_misaligned": (3, lambda x: _misaligned(x.movedim(-3, -1)).movedim(-1, -3)),
    "sliced": (1, _sliced),
    "channels_last_sliced": (3, lambda x: _sliced(x.movedim(-3, -1)).movedim(-1, -3)),
    "every_other": (2, _every_other),
    "every_other_channel": (3, _every_other_channel),
    "transposed": (2, lambda x: x.mT.contiguous().mT),
    "batch_inside": (1, lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0)),
    "expanded_batch": (1, lambda x: x[:1].expand_as(x)),
    "expanded_channels": (3, lambda x: x[..., :1, :, :].expand_as(x)),
    "expanded_columns": (1, lambda x: x[..., :1].expand_as(x)),
    "expanded": (1, lambda x: x.reshape(-1)[0].expand_as(x)),
    "overlapping": (1, _overlapping),
}


def _at_least(dimensions, function):
    return lambda x: function(x) if x.dim() >= dimensions and x.numel() else x.contiguous()


LAYOUTS = {name: _at_least(*layout) for name, layout in _LAYOUTS.items()}


# Values: (shape, dtype, generator) -> a dense tensor.


def normal(shape, dtype, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def integers(shape, dtype, generator):
    """Small enough that sums over any case are exact in their type."""
    most = 2 if dtype.itemsize == 2 else 8
    return torch.randint(-most, most + 1, shape, generator=generator).to(dtype)


def impulses(shape, dtype, generator):
    """A single 1 in each plane: shows where every tap goes."""
    planes = torch.zeros(shape, dtype=dtype).flatten(-min(2, len(shape)))
    if planes.numel() == 0:
        return planes.view(shape)
    at = torch.randint(planes.shape[-1], (*planes.shape[:-1], 1), generator=generator)
    return planes.scatter_(-1, at, 1).view(shape)


def specials(shape, dtype, generator):
    """Ties, infinities, NaN, both zeros and subnormal numbers among ordinary ones."""
    tiny = torch.finfo(dtype).smallest_normal / 4
    ordinary = [0.5, 1, -1, -0.0, 0.0, tiny, -tiny]
    numbers = torch.tensor([*ordinary * 3, torch.nan, torch.inf, -torch.inf], dtype=dtype)
    return numbers[torch.randint(len(numbers), shape, generator=generator)]


def with_layout(case, layout):
    return replace(case, name=f"{case.name}-{layout}", layout=layout)


def pair(value):
    return [value, value] if isinstance(value, int) else list(value)


def dense_like(x, tensor):
    """`tensor` as an op would have returned it for input x."""
    channels_last = torch._prims_common.suggest_memory_format(x) is torch.channels_last
    return _channels_last(tensor) if x.dim() == 4 and channels_last else tensor.contiguous()
