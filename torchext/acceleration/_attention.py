"""Attention whose queries, keys and values are views of one product: `attention_qkv` reads them
where they are, whatever way the model's code cuts them out."""

import operator

import torch
from torch import fx

from ._capture import aten

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
)
_PARTS = (aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


def pack_attention(graph):
    """Lets attention read packed tensors; returns how often."""
    count = 0
    for node in list(graph.nodes):
        if node.target is aten.scaled_dot_product_attention.default and (packed := _packed(node)):
            root, turned = packed
            with graph.inserting_before(node):
                _replace(graph, node, root, turned)
            count += 1
    graph.eliminate_dead_code()
    return count


def _packed(node):
    """(the tensor, whether its first dimension is the length) that q, k and v of node are cut from
    as [batch, length, 3, heads, width]; else None."""
    q, k, v = node.args[:3]
    _, dropout, *_ = _arguments(*node.args, **node.kwargs)
    shapes = [tuple(x.meta["val"].shape) for x in (q, k, v)]
    if len(shapes[0]) != 4 or len(set(shapes)) != 1 or dropout > 0:
        return None
    roots = [_root(x) for x in (q, k, v)]
    root = roots[0][0]
    if (
        any(r is not root for r, _ in roots)
        or root.meta["val"].numel() != 3 * q.meta["val"].numel()
    ):
        return None
    B, H, N, D = shapes[0]
    elements = torch.arange(root.meta["val"].numel())
    cut = [_follow(elements.view(root.meta["val"].shape), chain) for _, chain in roots]
    for turned, shape in ((False, (B, N, 3, H, D)), (True, (N, B, 3, H, D))):
        whole = elements.view(shape)
        whole = whole.transpose(0, 1) if turned else whole
        if all(torch.equal(x, whole[:, :, i].transpose(1, 2)) for i, x in enumerate(cut)):
            return root, turned
    return None


def _root(node):
    """(where a chain of views begins, the chain)"""
    chain = []
    while isinstance(node, fx.Node) and node.op == "call_function":
        parts = node.args[0] if node.target is operator.getitem else None
        if parts is not None and parts.target in _PARTS:
            chain.append((parts, node.args[1]))
            node = parts.args[0]
        elif node.target in _VIEWS:
            chain.append((node, None))
            node = node.args[0]
        else:
            break
    return node, chain[::-1]


def _follow(elements, chain):
    for node, part in chain:
        elements = node.target(elements, *node.args[1:], **node.kwargs)
        elements = elements if part is None else elements[part]
    return elements


def _arguments(q, k, v, mask=None, dropout=0.0, causal=False, *, scale=None, enable_gqa=False):
    return mask, dropout, causal, scale


def _replace(graph, node, root, turned):
    """The packed op for the node, its result seen as the node's."""
    B, H, N, D = node.meta["val"].shape
    value = root.meta["val"]
    mask, _, causal, scale = _arguments(*node.args, **node.kwargs)

    def emit(target, *args, shape):
        made = graph.call_function(target, args)
        made.meta = {**node.meta, "val": value.new_empty(shape)}
        return made

    shape = (N, B, 3, H, D) if turned else (B, N, 3, H, D)
    packed = emit(aten.reshape.default, root, shape, shape=shape)
    if turned:
        packed = emit(aten.transpose.int, packed, 0, 1, shape=(B, N, 3, H, D))
    op = torch.ops.torchext.attention_qkv_inference.default
    y = emit(op, packed, mask, causal, scale, shape=(B, N, H * D))
    y = emit(aten.reshape.default, y, (B, N, H, D), shape=(B, N, H, D))
    node.replace_all_uses_with(emit(aten.transpose.int, y, 1, 2, shape=(B, H, N, D)))
    graph.erase_node(node)
