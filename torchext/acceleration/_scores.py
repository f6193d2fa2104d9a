"""Attention that is spelt out, softmax(q @ k^T * scale + mask) @ v, said in one word.

Its values between the two products have no other user: who asks for the weights gets them. Rows
that see no key are zeros, as torch's attention has them, where the formula has NaN.
"""

import math
from dataclasses import dataclass, field
from math import prod

import torch
from torch import fx

from ._attention import SDPA, arguments, shape_of, value_of
from ._capture import aten
from ._raise import emitter
from ._spelling import respell

_PRODUCTS = (aten.matmul.default, aten.bmm.default)
_MULTIPLES = (aten.mul.Tensor, aten.div.Tensor)
_STEPS = (*_MULTIPLES, aten.add.Tensor, aten.masked_fill.Scalar, aten.reshape.default)


def fuse_attention(graph):
    """Finds it in all its spellings; returns how often."""
    respell(graph)
    count = 0
    for node in list(graph.nodes):
        if node.target is aten.softmax.int and (found := _around(node)) is not None:
            with graph.inserting_before(found.last):
                found.replace(emitter(graph, node))
            count += 1
    for node in graph.nodes:
        if node.target is SDPA:
            _drop_idle_mask(node)
    graph.eliminate_dead_code()
    return count


@dataclass
class _Spelt:
    """An attention's parts. A step may split or merge leading dimensions: `leads` has those of all
    steps, and masks and factors come with their own step's."""

    product: fx.Node
    last: fx.Node
    scale: float = 1.0
    factors: list = field(default_factory=list)  # (multiplication or division, tensor, lead)
    added: list = field(default_factory=list)  # (mask, lead)
    hidden: list = field(default_factory=list)
    leads: list = field(default_factory=list)

    def finest(self):
        """The leading dimensions that all others are merged from; or None."""
        for lead in sorted(self.leads, key=len):
            if all(_groups(other, lead) is not None for other in self.leads):
                return lead
        return None

    def is_whole(self):
        """Whether the word has room for all of it."""
        q, k = self.product.args
        p, v = self.last.args
        ends = all(
            shape_of(a)[:-2] == shape_of(b)[:-2] == shape_of(y)[:-2] and len(shape_of(a)) > 2
            for a, b, y in ((q, k, self.product), (p, v, self.last))
        )
        return ends and self.finest() is not None

    def replace(self, emit):
        lead = self.finest()
        (q, k), v = self.product.args, self.last.args[1]
        q, k, scales = _bare(q), _bare(k), [self.scale, _scale_of(q), _scale_of(k)]
        k = _transposed(emit, k)
        k, scales = _bare(k), [*scales, _scale_of(k)]
        its = shape_of(self.product)[:-2]
        q, k = _split(emit, q, its, lead), _split(emit, k, its, lead)
        v = _split(emit, v, shape_of(self.last)[:-2], lead)
        for target, factor, its in self.factors:
            q = emit(target, q, _split(emit, factor, its, lead))
        y = emit(SDPA, q, k, v, self._mask(emit, lead), scale=prod(scales))
        if shape_of(y) != shape_of(self.last):
            y = emit(aten.reshape.default, y, shape_of(self.last))
        self.last.replace_all_uses_with(y)

    def _mask(self, emit, lead):
        mask = None
        for more, its in self.added:
            more = _split(emit, more, its, lead)
            mask = more if mask is None else emit(aten.add.Tensor, mask, more)
        for hidden, its in self.hidden:
            seen = emit(aten.logical_not.default, _split(emit, hidden, its, lead))
            if mask is None:
                mask = seen
            elif mask.meta["val"].is_floating_point():
                mask = emit(aten.where.ScalarOther, seen, mask, -math.inf)
            else:
                mask = emit(aten.logical_and.default, mask, seen)
        return mask


def _around(softmax):
    """What is spelt around a softmax; or None."""
    scores, dim, *dtype = softmax.args
    last = len(shape_of(scores)) - 1
    if dim not in (-1, last) or softmax.kwargs or dtype not in ([], [None], [_dtype(scores)]):
        return None
    weights, leads = softmax, [_lead(softmax)]
    while (user := _only_user(weights)) is not None and _keeps_scores(user):
        weights = user
        leads.append(_lead(weights))
    found = _scores(scores)
    if found is None or user is None or user.target not in _PRODUCTS:
        return None
    if user.args[0] is not weights or user.args[1] is weights:
        return None
    product, steps = found
    spelt = _Spelt(product, user, leads=[_lead(product), *leads])
    whole = all(_take(spelt, node, inner) for node, inner in steps) and spelt.is_whole()
    return spelt if whole else None


def _scores(node):
    """(q @ k^T, the steps from it to node: (node, its input) each); or None."""
    if _only_user(node) is None:
        return None
    if node.target in _PRODUCTS:
        return node, []
    for inner in node.args[:2] if node.target in _STEPS else ():
        if isinstance(inner, fx.Node) and (found := _scores(inner)) is not None:
            return found[0], [*found[1], (node, inner)]
    return None


def _take(spelt, node, inner):
    """Takes in a step; False if it is none that the word has room for."""
    if _keeps_scores(node):
        spelt.leads.append(_lead(node))
        return True
    if node.kwargs or shape_of(node) != shape_of(inner):
        return False
    first = inner is node.args[0]
    other = node.args[1] if first else node.args[0]
    if other is inner:
        return False
    if node.target is aten.masked_fill.Scalar:
        spelt.hidden.append((other, _lead(node)))
        return first and node.args[2] == -math.inf
    if node.target is aten.add.Tensor:
        spelt.added.append((other, _lead(node)))
        return isinstance(other, fx.Node) and _dtype(other) == _dtype(node)
    if spelt.added or spelt.hidden or not (first or node.target is aten.mul.Tensor):
        return False
    if not isinstance(other, fx.Node):
        spelt.scale *= _number(node)
        return True
    spelt.factors.append((node.target, other, _lead(node)))
    return shape_of(other)[-1:] in ((), (1,)) and _dtype(other) == _dtype(node)


def _lead(node):
    return shape_of(node)[:-2]


def _dtype(node):
    return node.meta["val"].dtype


def _only_user(node):
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _keeps_scores(node):
    """Whether it only splits or merges leading dimensions."""
    view = node.target is aten.reshape.default
    return view and shape_of(node)[-2:] == shape_of(node.args[0])[-2:]


def _is_scaled(node):
    return (
        node.target in _MULTIPLES
        and not isinstance(node.args[1], fx.Node)
        and _dtype(node) == _dtype(node.args[0])
    )


def _number(node):
    number = node.args[1]
    return number if node.target is aten.mul.Tensor else 1 / number if number else math.inf


def _scale_of(node):
    return _number(node) * _scale_of(node.args[0]) if _is_scaled(node) else 1.0


def _bare(node):
    """Without its scale."""
    return _bare(node.args[0]) if _is_scaled(node) else node


def _transposed(emit, node):
    rank = len(shape_of(node))
    last = {rank - 2, rank - 1}
    if node.target is aten.transpose.int and {d % rank for d in node.args[1:]} == last:
        return node.args[0]
    return emit(aten.transpose.int, node, -2, -1)


def _groups(lead, fine):
    """For each of lead's dimensions, those of fine that it merges; None if it does not."""
    groups, rest = [], list(fine)
    for n in lead:
        group = []
        while rest and prod(group) < n:
            group.append(rest.pop(0))
        if prod(group) != n:
            return None
        groups.append(group)
    if prod(rest) != 1:
        return None
    groups[-1] += rest
    return groups


def _split(emit, x, lead, fine):
    """x, which broadcasts to leading dimensions `lead`, seen so that it does to fine's."""
    if lead == fine:
        return x
    shape = shape_of(x)
    shape = (1,) * (len(lead) + 2 - len(shape)) + shape
    new = []
    for n, group in zip(shape, _groups(lead, fine), strict=False):
        new += [1] * len(group) if n == 1 else group
    return emit(aten.reshape.default, x, (*new, *shape[-2:]))


def _drop_idle_mask(node):
    """A mask that hides nothing, whatever the inputs and weights."""
    mask, *_ = arguments(*node.args, **node.kwargs)
    value = value_of(mask, lambda _: None) if mask is not None else None
    if value is not None and bool(value.all() if value.dtype == torch.bool else not value.any()):
        node.args = (*node.args[:3], None, *node.args[4:])
