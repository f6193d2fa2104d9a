"""Convolutions and linear layers with what follows them: the pattern that most time is spent in.

    product -> batch norm -> + residual -> activation

Each step is optional, and is taken while the value so far has no other user. Batch norms are folded
into the weights in float64.
"""

from dataclasses import dataclass, field

from torch import fx

from ..nn import functional as F
from ._capture import aten, batch_norm

# ATen's activations by the kernels' names; a function of the node's other arguments says whether
# it is that one.
ACTIVATIONS = {
    aten.relu.default: lambda: "relu",
    aten.relu6.default: lambda: "relu6",
    aten.leaky_relu.default: lambda slope=0.01: "leaky_relu" if slope == 0.01 else None,
    aten.elu.default: lambda *scales: "elu" if all(s == 1 for s in scales) else None,
    aten.silu.default: lambda: "silu",
    aten.gelu.default: lambda approximate="none": "gelu" if approximate == "none" else "gelu_tanh",
    aten.sigmoid.default: lambda: "sigmoid",
    aten.tanh.default: lambda: "tanh",
    aten.hardswish.default: lambda: "hardswish",
    aten.hardsigmoid.default: lambda: "hardsigmoid",
}


def activation_of(node):
    """The kernels' name of an activation's node, or None."""
    known = ACTIVATIONS.get(node.target)
    return known(*node.args[1:], **node.kwargs) if known else None


@dataclass
class Product:
    """A convolution or a linear layer, and what was found behind it."""

    node: fx.Node
    norm: fx.Node | None = None
    residual: fx.Node | None = None
    activation: str = "none"
    nodes: list = field(default_factory=list)  # all of them, in order

    @property
    def is_linear(self):
        return self.node.target is aten.linear.default

    @property
    def last(self):
        return self.nodes[-1]

    @property
    def weight_shape(self):
        return tuple(self.node.args[1].meta["val"].shape)

    def geometry(self):
        """(stride, padding, dilation, groups)"""
        defaults = ([1, 1], [0, 0], [1, 1], 1)
        given = self.node.args[3:]
        stride, padding, dilation, groups = (*given, *defaults[len(given) :])
        return *(F._two(v) for v in (stride, padding, dilation)), groups

    @property
    def is_depthwise(self):
        if self.is_linear:
            return False
        out, channels, *_ = self.weight_shape
        return channels == 1 and self.geometry()[3] == out > 1

    @property
    def is_narrow(self):
        """Whether its groups are so narrow that panels would be mostly empty: csrc/cpu/depthwise.h
        has those that filters take."""
        if self.is_linear:
            return False
        out, channels, *_ = self.weight_shape
        groups = self.geometry()[3]
        return channels in (4, 8) and channels * groups == out > channels

    @property
    def is_pointwise(self):
        if self.is_linear:
            return False
        return self.weight_shape[2:] == (1, 1) and self.geometry() == ([1, 1], [0, 0], [1, 1], 1)


def _value(node):
    return node.meta.get("val")


def find_products(graph, constants):
    """Every product of the graph; `constants` are the nodes that no input reaches."""
    taken, found = set(), []
    for node in graph.nodes:
        if node.target not in (aten.conv2d.default, aten.linear.default) or node in constants:
            continue
        if node.args[1] not in constants or _value(node.args[1]).dim() not in (2, 4):
            continue
        product = Product(node, nodes=[node])
        _extend(product, constants, taken)
        taken.update(product.nodes)
        found.append(product)
    return found


def _extend(product, constants, taken):
    user = _next(product, taken)
    if (
        user is not None
        and user.target is batch_norm
        and not product.is_linear
        and user.args[0] is product.last
        and constants.keys() >= set(filter(None, user.args[1:5]))
    ):
        product.norm = user
        product.nodes.append(user)
        user = _next(product, taken)
    if user is not None and user.target is aten.add.Tensor and not user.kwargs:
        other = next((a for a in user.args if a is not product.last), None)
        if _is_image_like(other, product.last):
            product.residual = other
            product.nodes.append(user)
            user = _next(product, taken)
    if user is not None and (name := activation_of(user)) is not None:
        product.activation = name
        product.nodes.append(user)


def _next(product, taken):
    """The only user of the value so far, if it is nobody else's."""
    users = list(product.last.users)
    return users[0] if len(users) == 1 and users[0] not in taken else None


def _is_image_like(other, node):
    if not isinstance(other, fx.Node):
        return False
    its, mine = _value(other), _value(node)
    return its is not None and its.shape == mine.shape and its.dtype == mine.dtype


def fold(weight, bias, gamma, beta, mean, var, eps):
    """(weight, bias) of a convolution with the batch norm behind it: in float64, rounded once."""
    scale = (var.double() + eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.double()
    shift = (bias.double() if bias is not None else 0) - mean.double()
    shift = shift * scale + (beta.double() if beta is not None else 0)
    w = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return w.to(weight.dtype), shift.to(weight.dtype)
