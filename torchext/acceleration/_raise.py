"""torchext's own ops in a graph, said in ATen's words: so that one vocabulary has all patterns."""

from torch import fx

from ..ops._activation import KINDS
from ._capture import aten, batch_norm
from ._products import ACTIVATIONS

# By their numbers: of each target, the one that it is without other arguments.
_ACTIVATIONS = {KINDS[name()]: target for target, name in ACTIVATIONS.items()}


def _activation(emit, x, kind):
    if kind == KINDS["none"]:
        return x
    if kind == KINDS["gelu_tanh"]:
        return emit(aten.gelu.default, x, approximate="tanh")
    return emit(_ACTIVATIONS[kind], x)


def _finish(emit, y, residual, activation):
    if residual is not None:
        y = emit(aten.add.Tensor, y, residual)
    return _activation(emit, y, activation)


def _conv2d(emit, x, weight, bias, residual, stride, padding, dilation, groups, activation):
    y = emit(aten.conv2d.default, x, weight, bias, stride, padding, dilation, groups)
    return _finish(emit, y, residual, activation)


def _linear(emit, x, weight, bias, residual, activation):
    return _finish(emit, emit(aten.linear.default, x, weight, bias), residual, activation)


def _batch_norm(emit, x, weight, bias, mean, var, training, momentum, eps):
    return None if training else emit(batch_norm, x, weight, bias, mean, var, eps)


def _conv_bn_act(emit, x, weight, bias, *args):
    *norm, residual, training, _, eps, stride, padding, dilation, groups, activation = args
    if training:
        return None
    y = emit(aten.conv2d.default, x, weight, bias, stride, padding, dilation, groups)
    return _finish(emit, emit(batch_norm, y, *norm, eps), residual, activation)


def _depthwise_separable(emit, x, weight, *args):
    *norm, eps, pointwise, gamma, beta, mean, var, pointwise_eps, residual = args[:12]
    stride, padding, dilation, activation, pointwise_activation = args[12:]
    groups = x.meta["val"].shape[1]
    rest = (stride, padding, dilation, groups, activation)
    y = _conv_bn_act(emit, x, weight, None, *norm, None, False, 0.0, eps, *rest)
    rest = ([1, 1], [0, 0], [1, 1], 1, pointwise_activation)
    norm = (gamma, beta, mean, var)
    return _conv_bn_act(emit, y, pointwise, None, *norm, residual, False, 0.0, pointwise_eps, *rest)


def _layer_norm(emit, x, size, weight, bias, eps):
    shape, left = [], size
    for n in reversed(x.meta["val"].shape):
        if left == 1:
            break
        shape.insert(0, n)
        left //= n
    return emit(aten.layer_norm.default, x, shape, weight, bias, eps) if shape else None


def _attention(emit, q, k, v, mask, is_causal, scale, enable_gqa):
    target = aten.scaled_dot_product_attention.default
    return emit(target, q, k, v, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)


def _same(target):
    return lambda emit, *args: emit(target, *args)


def _softmax(emit, x, dim, log):
    return None if log else emit(aten.softmax.int, x, dim)


_IN_ATEN = {
    "activation": _activation,
    "adaptive_avg_pool2d": _same(aten.adaptive_avg_pool2d.default),
    "attention": _attention,
    "avg_pool2d": _same(aten.avg_pool2d.default),
    "batch_norm": _batch_norm,
    "conv2d": _conv2d,
    "conv_bn_act": _conv_bn_act,
    "depthwise_separable": _depthwise_separable,
    "group_norm": _same(aten.group_norm.default),
    "layer_norm": _layer_norm,
    "linear": _linear,
    "max_pool2d": _same(aten.max_pool2d.default),
    "softmax": _softmax,
}


def raise_to_aten(graph):
    """Replaces the ops that have words in ATen; the others stay."""
    for node in list(graph.nodes):
        name = getattr(node.target, "_schema", None)
        if node.op != "call_function" or name is None or not name.name.startswith("torchext::"):
            continue
        in_aten = _IN_ATEN.get(name.name.removeprefix("torchext::").removesuffix("_inference"))
        if in_aten is None or not name.name.endswith("_inference"):
            continue
        with graph.inserting_before(node):
            new = in_aten(emitter(graph, node), *node.args)
        if new is not None:
            node.replace_all_uses_with(new)
            graph.erase_node(node)


def emitter(graph, origin):
    """Makes nodes in the place of `origin`, with the values that fakes give them."""

    def emit(target, *args, **kwargs):
        node = graph.call_function(target, args, kwargs)
        values = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        node.meta = {**origin.meta, "val": target(*values[0], **values[1])}
        return node

    return emit
