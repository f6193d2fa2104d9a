"""Fewer spellings of what stands around an attention, for its patterns."""

from ._attention import shape_of
from ._capture import aten
from ._raise import emitter

_FILLED = {
    aten.new_zeros.default: 0,
    aten.zeros_like.default: 0,
    aten.new_ones.default: 1,
    aten.ones_like.default: 1,
}


def respell(graph):
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        new = None
        with graph.inserting_before(node):
            emit = emitter(graph, node)
            if node.target in _FILLED:
                new = _filled(emit, node)
            elif _is_idle(node):
                new = node.args[0]
            elif node.target is aten.einsum.default:
                new = _as_matmul(emit, node.args[0].replace(" ", ""), *node.args[1])
        if new is not None:
            node.replace_all_uses_with(new)
        if new is not None or node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)


def _is_idle(node):
    if node.target is aten.pad.default:
        return not any(node.args[1])
    same = node.target is aten.type_as.default
    return same and node.meta["val"].dtype == node.args[0].meta["val"].dtype


def _filled(emit, node):
    """A constant, of what has another's dtype or shape alone."""
    value = node.meta["val"]
    number = _FILLED[node.target]
    kwargs = {"dtype": value.dtype, "device": value.device}
    return emit(aten.full.default, tuple(value.shape), number, **kwargs)


def _as_matmul(emit, equation, *operands):
    """An einsum that is a product of matrices; else None."""
    inputs, arrow, out = equation.partition("->")
    if len(operands) != 2 or not arrow or "." in equation:
        return None
    left, right = inputs.split(",")
    if any(len(set(letters)) < len(letters) for letters in (left, right, out)):
        return None
    a, b = operands
    lead = [c for c in out if c in left and c in right]
    rows = [c for c in left if c in out and c not in right]
    columns = [c for c in right if c in out and c not in left]
    inner = [c for c in left if c in right and c not in out]
    whole = len(lead) + 2 == len(left) == len(right) == len(out)
    if not whole or not len(rows) == len(columns) == len(inner) == 1:
        return None
    sizes = dict(zip(left, shape_of(a), strict=True))
    if any(sizes.get(c, n) != n for c, n in zip(right, shape_of(b), strict=True)):
        return None
    a = _permuted(emit, a, left, [*lead, *rows, *inner])
    b = _permuted(emit, b, right, [*lead, *columns, *inner])
    y = emit(aten.matmul.default, a, emit(aten.transpose.int, b, -2, -1))
    return _permuted(emit, y, [*lead, *rows, *columns], out)


def _permuted(emit, x, letters, wanted):
    order = [list(letters).index(c) for c in wanted]
    return x if order == sorted(order) else emit(aten.permute.default, x, order)
