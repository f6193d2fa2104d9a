"""From ATen's graph to torchext's ops: each place of it with all that could run there."""

from functools import partial
from math import prod

import torch
from torch import fx

from ..nn import functional as F
from ..ops._activation import KINDS
from ..ops._packed import pack, suits_pairs
from ..ops._triton import beside_cuda
from ..ops._winograd import pack_winograd
from . import _onednn
from ._attention import attention_qkv, pack_attention
from ._capture import aten, batch_norm
from ._places import Builder, Candidate, Chain, Place, WithKeywords, channels_last, conv2d, linear
from ._products import ACTIVATIONS, activation_of, find_products, fold
from ._scores import fuse_attention
from ._windows import fuse_windows, window_attention

ops = torch.ops.torchext
FEW_ROWS = 8  # so few rows of a linear layer read its weight where it is: packing wins nothing
FEW_TILES = 8
FEW_COLUMNS = 4  # and so few columns of a convolution would leave a panel mostly empty


def constants_of(graph, sources):
    """The nodes that no input reaches, in order: weights, and what depends on them alone."""
    constants = {}
    for node in graph.nodes:
        if node in sources or (
            node.op == "call_function"
            and constants.keys() >= set(node.all_input_nodes)
            and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
        ):
            constants[node] = None
    return constants


def lower(program, precision):
    """Rewrites the program's graph; returns its places."""
    graph, rewriter = program.graph, _Rewriter(program.graph)
    fuse_attention(graph)
    fuse_windows(program)
    pack_attention(graph)
    constants = constants_of(graph, program.sources)
    products = find_products(graph, constants)
    for first, second in _pairs(products):
        rewriter.replace(
            first.nodes + second.nodes,
            f"{_what(first)} + {_what(second)}",
            partial(_separable_candidates, first=first, second=second),
        )
        products.remove(first)
        products.remove(second)
    for product in products:
        candidates = partial(_conv2d_candidates, precision=precision)
        candidates = _linear_candidates if product.is_linear else candidates
        rewriter.replace(product.nodes, _what(product), partial(candidates, product=product))
    for node in list(graph.nodes):
        if node.op == "call_function" and node not in constants and (both := _layer(node)):
            what = node.target.__name__.partition(".")[0]
            rewriter.replace([node], what, lambda build, both=both: both)
    return rewriter.places()


class _Rewriter:
    """Replaces nodes by places."""

    def __init__(self, graph):
        self.graph, self._places, self._replaced = graph, [], {}

    def replace(self, nodes, what, candidates):
        """By what the first of candidates(builder) computes from the nodes' inputs."""
        last = nodes[-1]
        with self.graph.inserting_before(last):
            found = candidates(Builder(self.graph))
            found += [] if _is_on_cpu(last) else _by_triton(found)
            place = Place(_path(nodes[0]), what, None, found)
            self._update(place)
            first = place.candidates[0]
            place.node = self.graph.call_function(first.target, first.args)
        place.node.meta = dict(last.meta)
        last.replace_all_uses_with(place.node)
        self._replaced[last] = place.node
        for node in reversed(nodes):
            self.graph.erase_node(node)
        self._places.append(place)

    def _update(self, place):
        """Its candidates speak of nodes that may have been replaced since."""

        def now(node):
            while node in self._replaced:
                node = self._replaced[node]
            return node

        for candidate in place.candidates:
            candidate.args = fx.map_arg(candidate.args, now)

    def places(self):
        for place in self._places:
            self._update(place)
        return self._places


def _is_on_cpu(node):
    """Where weights are packed once, and kernels read them so."""
    value = node.meta["val"]
    value = value if isinstance(value, torch.Tensor) else value[0]
    return value.device.type == "cpu"


def _by_triton(candidates):
    """The same ops by the other kernels there are for GPUs: nobody has measured which is faster."""
    ours = [c for c in candidates if getattr(c.target, "namespace", "") == "torchext"]
    found = [(c, beside_cuda(c.target._opname)) for c in ours]
    return [Candidate(f"{c.name}, Triton", other, c.args) for c, other in found if other]


def _path(node):
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0] if stack else node.name


def _folded(build, product):
    """(weight, bias) with the batch norm in it."""
    weight, bias = (*product.node.args, None)[1:3]
    if product.norm is None:
        return weight, bias
    return build.pair(fold, weight, bias, *product.norm.args[1:])


def _panels(build, product, weight, groups):
    dtype, channels = product.node.meta["val"].dtype, product.weight_shape[1]
    return build(pack, weight, groups, 2 if suits_pairs(dtype, channels) else 1)


def taps_first(weight):
    """A filter's weight, its channels adjacent in memory as kernels read it."""
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def _what(product):
    parts = ["linear" if product.is_linear else "conv2d"]
    if product.is_depthwise:
        parts = ["depthwise conv2d"]
    parts += ["batch norm"] if product.norm is not None else []
    parts += ["residual"] if product.residual is not None else []
    parts += [product.activation] if product.activation != "none" else []
    return " + ".join(parts)


def _linear_candidates(build, product):
    weight, bias = _folded(build, product)
    x, size = product.node.args[0], product.weight_shape
    rows = x.meta["val"].numel() // max(size[1], 1)
    rest = (bias, product.residual, KINDS[product.activation])
    if _is_on_cpu(product.node) and rows > FEW_ROWS and size[0] > FEW_COLUMNS:
        args = (x, _panels(build, product, weight, 1), size[0], *rest)
        ours = Candidate("torchext", ops.linear_packed_inference.default, args)
    else:
        ours = Candidate("torchext", ops.linear_inference.default, (x, weight, *rest))
    plain = (x, weight, bias, product.residual, product.activation)
    return [ours, Candidate("ATen", linear, plain), *_onednn.linear(build, plain, rows)]


def _conv2d_candidates(build, product, precision):
    weight, bias = _folded(build, product)
    x, size, geometry = product.node.args[0], product.weight_shape, product.geometry()
    whole = build(channels_last, weight)
    rest = (bias, product.residual, *geometry, KINDS[product.activation])
    on_cpu = _is_on_cpu(product.node)
    filters = on_cpu and (product.is_depthwise or product.is_narrow)
    if not on_cpu or filters or size[0] // geometry[-1] <= FEW_COLUMNS:
        laid = build(taps_first, weight) if filters else whole
        ours = Candidate("torchext", ops.conv2d_inference.default, (x, laid, *rest))
    else:
        args = (x, _panels(build, product, weight, geometry[-1]), list(size), *rest)
        ours = Candidate("torchext", ops.conv2d_packed_inference.default, args)
    plain = (x, whole, bias, product.residual, *geometry, product.activation)
    shape = list(x.meta["val"].shape)
    candidates = [ours, Candidate("ATen", conv2d, plain), *_onednn.conv2d(build, plain, shape)]
    if on_cpu and precision == "fast" and _suits_winograd(product):
        args = (x, build(pack_winograd, weight), size[0], bias, product.residual)
        args += (geometry[1], KINDS[product.activation])
        op = ops.conv2d_winograd_inference.default
        candidates.append(Candidate("torchext, Winograd", op, args))
    return candidates


def _suits_winograd(product):
    """3 x 3 taps, and so many tiles of 4 x 4 outputs that the weights' way from memory pays: they
    are four times as many."""
    stride, _, *rest = product.geometry()
    images, channels, *output = product.node.meta["val"].shape
    if product.weight_shape[2:] != (3, 3) or (stride, *rest) != ([1, 1], [1, 1], 1):
        return False
    tiles = images * prod(-(-n // 4) for n in output)
    return channels > FEW_COLUMNS and tiles >= FEW_TILES


def _pairs(products):
    """Depthwise convolutions with pointwise ones behind them."""
    by_node = {product.node: product for product in products}
    pairs = []
    for first in products:
        users = list(first.last.users)
        second = by_node.get(users[0]) if len(users) == 1 else None
        if (
            second is not None
            and first.is_depthwise
            and first.residual is None
            and second.is_pointwise
            and second.node.args[0] is first.last
            and second.weight_shape[0] > FEW_COLUMNS
        ):
            pairs.append((first, second))
    return pairs


def unit_norm(weight, shift):
    """(shift or zeros, ones): a batch norm that was folded into its weight."""
    ones = torch.ones(weight.shape[0], dtype=weight.dtype, device=weight.device)
    return torch.zeros_like(ones) if shift is None else shift, ones


def _separable_candidates(build, first, second):
    x = first.node.args[0]
    weight, bias = _folded(build, first)
    pointwise, pointwise_bias = _folded(build, second)
    shift, ones = build.pair(unit_norm, weight, bias)
    pointwise_shift, pointwise_ones = build.pair(unit_norm, pointwise, pointwise_bias)
    zeros, pointwise_zeros = build(torch.zeros_like, ones), build(torch.zeros_like, pointwise_ones)
    *geometry, groups = first.geometry()
    kinds = KINDS[first.activation], KINDS[second.activation]
    on_cpu, unit = _is_on_cpu(first.node), ([1, 1], [0, 0], [1, 1], 1)
    whole = build(channels_last, weight)
    filters = build(taps_first, weight) if on_cpu else whole
    one, second_one = ops.depthwise_separable_inference, ops.conv2d_inference
    whole_pointwise = build(channels_last, pointwise)
    factor = second_factor = (whole_pointwise,)
    if on_cpu:
        one, second_one = ops.depthwise_separable_packed_inference, ops.conv2d_packed_inference
        factor = build(pack, pointwise), second.weight_shape[0]
        second_factor = _panels(build, second, pointwise, 1), list(second.weight_shape)
    args = (x, filters, None, shift, zeros, ones, 0.0, *factor)
    args += (None, pointwise_shift, pointwise_zeros, pointwise_ones, 0.0, second.residual)
    ours = Candidate("torchext", one.default, (*args, *geometry, *kinds))

    depthwise = (filters, bias, None, *geometry, groups, kinds[0])
    args = (x, *depthwise, *second_factor, pointwise_bias, second.residual, *unit, kinds[1])
    two = (ops.conv2d_inference.default, second_one.default)
    apart = Candidate("torchext, in two steps", Chain(*two, len(depthwise)), args)

    depthwise = (whole, bias, None, *geometry, groups, first.activation)
    args = (x, *depthwise, whole_pointwise, pointwise_bias, second.residual, *unit)
    args += (second.activation,)
    plain = Candidate("ATen", Chain(conv2d, conv2d, len(depthwise)), args)
    sizes = [list(p.node.args[0].meta["val"].shape) for p in (first, second)]
    return [ours, apart, plain, *_onednn.two_convolutions(build, plain, sizes)]


# Layers that have an op of their own: ATen's target -> (target, args) of the node's arguments, or
# None where there is no such op.
def _max_pool2d(x, kernel, stride=(), padding=0, dilation=1, ceil_mode=False):
    pairs = [F._two(v) for v in (kernel, stride or kernel, padding, dilation)]
    return ops.max_pool2d_inference.default, (x, *pairs, ceil_mode)


def _avg_pool2d(x, kernel, stride=(), padding=0, ceil_mode=False, counting=True, divisor=None):
    pairs = [F._two(v) for v in (kernel, stride or kernel, padding)]
    return ops.avg_pool2d_inference.default, (x, *pairs, ceil_mode, counting, divisor)


def _adaptive_avg_pool2d(x, size):
    return ops.adaptive_avg_pool2d_inference.default, (x, F._two(size))


def _layer_norm(x, shape, weight=None, bias=None, eps=1e-5, cudnn=False):
    return ops.layer_norm_inference.default, (x, prod(shape), weight, bias, eps)


def _group_norm(x, groups, weight=None, bias=None, eps=1e-5, cudnn=False):
    return ops.group_norm_inference.default, (x, groups, weight, bias, eps)


def _batch_norm(x, weight, bias, mean, var, eps):
    args = (x, weight, bias, mean, var, False, 0.0, eps)
    return ops.batch_norm_inference.default, args


def _softmax(x, dim, dtype=None):
    return (ops.softmax_inference.default, (x, dim, False)) if dtype is None else None


def _attention(q, k, v, mask=None, dropout=0.0, causal=False, *, scale=None, enable_gqa=False):
    if dropout > 0:
        return None
    return F.scaled_dot_product_attention, (q, k, v, mask, 0.0, causal, scale, enable_gqa)


def _attention_qkv(*args):
    return ops.attention_qkv_inference.default, args


def _window_attention(qkv, mask, *args):
    return ops.window_attention_inference.default, (qkv, *args)


def _recurrent(function):
    return lambda *args: (function, args)


LAYERS = {
    aten.max_pool2d.default: _max_pool2d,
    aten.avg_pool2d.default: _avg_pool2d,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    batch_norm: _batch_norm,
    aten.softmax.int: _softmax,
    aten.scaled_dot_product_attention.default: _attention,
    attention_qkv: _attention_qkv,
    window_attention: _window_attention,
    aten.lstm.input: _recurrent(F.lstm),
    aten.gru.input: _recurrent(F.gru),
    aten.rnn_tanh.input: _recurrent(F.rnn_tanh),
    aten.rnn_relu.input: _recurrent(F.rnn_relu),
    aten.lstm_cell.default: _recurrent(F.lstm_cell),
    aten.gru_cell.default: _recurrent(F.gru_cell),
    aten.rnn_tanh_cell.default: _recurrent(F.rnn_tanh_cell),
    aten.rnn_relu_cell.default: _recurrent(F.rnn_relu_cell),
}


def _layer(node):
    """Both ways to compute a layer that has an op of its own; or None."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        return None
    if node.target in LAYERS:
        made = LAYERS[node.target](*node.args, **node.kwargs)
    elif node.target in ACTIVATIONS and (name := activation_of(node)):
        made = ops.activation_inference.default, (node.args[0], KINDS[name])
    else:
        return None
    if made is None:
        return None
    ours = Candidate("torchext", *made)
    target = WithKeywords(node.target, node.kwargs) if node.kwargs else node.target
    plain = Candidate("ATen", target, node.args)
    return [ours, plain]
