"""Places of a graph, and the ways to compute them: each a function of nodes and plain data."""

from dataclasses import dataclass

import torch
from torch import fx

from ..ops._activation import DECOMPOSITIONS

aten = torch.ops.aten


@dataclass
class Candidate:
    """One way to compute a place: `target(*args)`."""

    name: str
    target: object
    args: tuple


@dataclass
class Place:
    """A part of the graph that kernels may take over."""

    where: str  # the module's path in the model
    what: str
    node: fx.Node  # which computes it, now by the chosen candidate
    candidates: list
    chosen: int = 0
    times: tuple = ()  # seconds of each candidate, once measured

    def choose(self, index):
        self.chosen, candidate = index, self.candidates[index]
        self.node.target, self.node.args, self.node.kwargs = candidate.target, candidate.args, {}


class Builder:
    """Puts nodes of constants into a graph."""

    def __init__(self, graph):
        self.graph = graph

    def __call__(self, function, *args):
        return self.graph.call_function(function, args)

    def pair(self, function, *args):
        both = self(function, *args)
        return self(_first, both), self(_second, both)


def _first(pair):
    return pair[0]


def _second(pair):
    return pair[1]


# Products by ATen, and what may follow them.
_IN_PLACE = {"relu": torch.relu_, "sigmoid": torch.sigmoid_, "tanh": torch.tanh_}


def finish(y, residual, activation):
    """activation(y + residual), of a y that nobody else has."""
    if residual is not None:
        y = y.add_(residual)
    return _IN_PLACE.get(activation, DECOMPOSITIONS[activation])(y)


def conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    y = aten.conv2d.default(x, weight, bias, stride, padding, dilation, groups)
    return finish(y, residual, activation)


def linear(x, weight, bias, residual, activation):
    return finish(aten.linear.default(x, weight, bias), residual, activation)


class Chain:
    """second(first(x)); of the other arguments, `count` are the first's."""

    __name__ = "chain"  # for torch.fx's code

    def __init__(self, first, second, count):
        self.first, self.second, self.count = first, second, count

    def __call__(self, x, *args):
        return self.second(self.first(x, *args[: self.count]), *args[self.count :])

    def __repr__(self):
        return f"chain({self.first}, {self.second})"


class WithKeywords:
    """A function with keyword arguments."""

    __name__ = "with_keywords"

    def __init__(self, function, keywords):
        self.function, self.keywords = function, keywords

    def __call__(self, *args):
        return self.function(*args, **self.keywords)

    def __repr__(self):
        return f"{self.function}({self.keywords})"


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)
