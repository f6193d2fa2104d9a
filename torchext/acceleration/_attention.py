"""Attention whose queries, keys and values are views of one product: `attention_qkv` reads them
where they are, whatever way the model's code cuts them out."""

import operator
from math import prod

import torch
from torch import fx

from ._capture import aten, evaluate
from ._raise import emitter

# What only renames elements.
_VIEWS = (
    aten.reshape.default,
    aten.transpose.int,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.unflatten.int,
    aten.roll.default,
)
_PARTS = (aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)
SDPA = aten.scaled_dot_product_attention.default


def attention_qkv(qkv, mask, causal, scale):
    """Of packed [B, N, 3, H, D], to [B, N, H * D]."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
    return SDPA(q, k, v, mask, 0.0, causal, scale=scale).transpose(1, 2).flatten(2)


def pack_attention(graph):
    """Lets attention read packed tensors; returns how often."""
    count = 0
    for node in list(graph.nodes):
        if node.target is SDPA and (packed := _packed(node)):
            with graph.inserting_before(node):
                _replace(graph, node, *packed)
            count += 1
    graph.eliminate_dead_code()
    return count


def _packed(node):
    """(the tensor, whether its first dimension is the length, the mask) where q, k and v of node
    are cut from one as [batch, length, 3, heads, width]; else None."""
    q, k, v = node.args[:3]
    mask, dropout, *_ = arguments(*node.args, **node.kwargs)
    shapes = [shape_of(x) for x in (q, k, v)]
    if len(shapes[0]) < 4 or len(set(shapes)) != 1 or dropout > 0:
        return None
    roots = [root_of(x) for x in (q, k, v)]
    root = roots[0][0]
    if any(r is not root for r, _ in roots) or prod(shape_of(root)) != 3 * prod(shapes[0]):
        return None
    *batch, H, N, D = shapes[0]
    if mask is not None and len(batch) > 1 and prod(shape_of(mask)[:-3]) > 1:
        return None  # the op knows one batch dimension, which this mask is not for
    B, elements = prod(batch), elements_of(root)
    cut = [follow(elements, chain).reshape(B, H, N, D) for _, chain in roots]
    for turned, shape in ((False, (B, N, 3, H, D)), (True, (N, B, 3, H, D))):
        whole = elements.view(shape)
        whole = whole.transpose(0, 1) if turned else whole
        if all(torch.equal(x, whole[:, :, i].transpose(1, 2)) for i, x in enumerate(cut)):
            return root, turned, mask
    return None


def shape_of(node):
    return tuple(node.meta["val"].shape)


def elements_of(node):
    """Each element's number, in the node's shape."""
    shape = shape_of(node)
    return torch.arange(prod(shape)).view(shape)


def root_of(node):
    """(where a chain of views begins, the chain)"""
    chain = []
    while isinstance(node, fx.Node) and node.op == "call_function":
        parts = node.args[0] if node.target is operator.getitem else None
        if parts is not None and parts.target in _PARTS:
            chain.append((parts, node.args[1]))
            node = parts.args[0]
        elif is_view(node):
            chain.append((node, None))
            node = node.args[0]
        else:
            break
    return node, chain[::-1]


def is_view(node):
    return node.target in _VIEWS


def follow(elements, chain):
    """Where a chain of views takes them."""
    for node, part in chain:
        elements = node.target(elements, *node.args[1:], **node.kwargs)
        elements = elements if part is None else elements[part]
    return elements


def value_of(node, given):
    """A constant's value, where given(placeholder) has those it depends on; else None."""
    needed, todo, values = set(), [node], {}
    while todo:
        needed.add(one := todo.pop())
        todo += [n for n in one.all_input_nodes if n not in needed]
    for one in node.graph.nodes:
        if one not in needed:
            continue
        if one.op == "placeholder":
            values[one] = given(one)
        elif torch.Tag.nondeterministic_seeded not in getattr(one.target, "tags", ()):
            values[one] = evaluate(one, values)
        if values.get(one) is None:
            return None
    return values[node]


def arguments(q, k, v, mask=None, dropout=0.0, causal=False, *, scale=None, enable_gqa=False):
    return mask, dropout, causal, scale


def _replace(graph, node, root, turned, mask):
    """The packed op for the node, its result seen as the node's."""
    *batch, H, N, D = shape_of(node)
    B, emit = prod(batch), emitter(graph, node)
    _, _, causal, scale = arguments(*node.args, **node.kwargs)
    packed = emit(aten.reshape.default, root, (N, B, 3, H, D) if turned else (B, N, 3, H, D))
    if turned:
        packed = emit(aten.transpose.int, packed, 0, 1)
    if mask is not None and len(shape_of(mask)) > 4:
        mask = emit(aten.reshape.default, mask, shape_of(mask)[-4:])
    y = emit(attention_qkv, packed, mask, causal, scale)
    y = emit(aten.transpose.int, emit(aten.reshape.default, y, (*batch, N, H, D)), -3, -2)
    node.replace_all_uses_with(y)
    graph.erase_node(node)
