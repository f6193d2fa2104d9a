"""The forward of a model accelerated for training: convolution, batch norm and activation as one
op wherever torch.fx shows that it is safe; every other layer by itself."""

import contextlib
import operator

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from ..nn import functional as F
from ..nn.normalisation import statistics_for
from ._forward import error_of
from ._layers import Trial, leave_layers, use_layers
from ._report import Report
from ._stand_in import StandIn
from ._timing import least_times, waiter

ADDITIONS = (operator.add, operator.iadd, torch.add)
ACTIVATIONS = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.SiLU: "silu",
    torch.relu: "relu",
    nn.functional.relu: "relu",
    nn.functional.relu6: "relu6",
    nn.functional.hardswish: "hardswish",
    nn.functional.silu: "silu",
}


class Block:
    """Stands in a graph for a convolution, its batch norm, a residual and an activation."""

    __name__ = "conv_bn_act"

    def __init__(self, conv, bn, activation):
        self.conv, self.bn, self.activation = conv, bn, activation

    def __call__(self, x, residual=None):
        if residual is None or residual.shape == self._shape(x):
            return self._run(x, residual, self.activation)
        y = self._run(x, None, None) + residual  # which broadcasts
        return getattr(F, self.activation)(y) if self.activation else y

    def _shape(self, x):
        conv = self.conv
        windows = zip(
            x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True
        )
        sizes = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in windows)
        return (x.shape[0], conv.out_channels, *sizes)

    def _run(self, x, residual, activation):
        conv, bn = self.conv, self.bn
        bn._check_input_dim(x)
        mean, var, training, momentum = statistics_for(
            *(bn.running_mean, bn.running_var, bn.num_batches_tracked),
            *(bn.training, bn.track_running_stats, bn.momentum),
        )
        norm = (mean, var, bn.weight, bn.bias)
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        return F.conv_bn_act(
            *(x, conv.weight, conv.bias, *norm, residual, training, momentum, bn.eps),
            *(*geometry, activation),
        )

    def __repr__(self):
        return f"{self.conv} + {self.bn} + {self.activation}"


def for_training(fast, model, arguments):
    """`fast`, a copy of the model, made to train faster. With arguments, every layer is timed."""
    report = fast.torchext_report = Report(type(model).__name__)
    use_layers(fast, report)
    paired = Paired(fast, model)
    if arguments is not None:
        with _unchanged(fast), torch.enable_grad():
            args, kwargs = arguments
            with Trial(fast, report):
                paired.own_forward(*args, **kwargs)
            _try(paired, args, kwargs, report)
    fast.__dict__["forward"] = paired
    return fast


def _try(paired, args, kwargs, report):
    """Keeps of it what gives the same results sooner."""
    parameters = [p for p in paired.model.parameters() if p.requires_grad]

    def step(forward):
        y = [x for x in tree_leaves(forward(*args, **kwargs)) if isinstance(x, torch.Tensor)]
        if total := sum(x.float().sum() for x in y if x.requires_grad):
            torch.autograd.grad(total, parameters, allow_unused=True)
        return y

    if not parameters:
        return
    results = []
    for forward in (paired, paired.source.forward):
        with torch.random.fork_rng(devices=[]):
            results.append(step(forward))
    error = error_of(*results)
    if not error <= 1e-3:
        report.note(f"no pairs: results differ by {error:.1e} of the largest")
        paired.give_up()
    ways = (paired.source.forward, paired.own_forward, paired)
    steps = [lambda way=way: step(way) for way in ways]
    own, layers, pairs = least_times(steps, wait=waiter(tree_leaves((args, kwargs))))
    for name in paired.pairs():
        report.row(name, "conv2d + batch norm + activation", "torchext")
    if pairs > layers:
        report.note("no pairs: its layers one by one are faster")
        paired.give_up()
    if min(layers, pairs) > own:
        report.note("PyTorch's own layers: they are faster")
        leave_layers(paired.model)
    report.measured(error, own, min(own, layers, pairs))


@contextlib.contextmanager
def _unchanged(model):
    """Restores the buffers: statistics are of training alone."""
    kept = [(b, b.clone()) for b in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


class Paired(StandIn):
    """Stands for `forward` in a copy of a model that trains."""

    KEPT = (*StandIn.KEPT, "_pairing")

    def __init__(self, model, source):
        super().__init__(model, source)
        self._pairing = True
        self._forget()

    def _forget(self):
        self._graphs = {}

    def refresh(self):
        """Nothing is prepared."""

    def __call__(self, *args, **kwargs):
        if not self._pairing or kwargs or torch.compiler.is_compiling():
            return self.own_forward(*args, **kwargs)
        if self.hooked() or any(isinstance(x, fx.Proxy) for x in args):
            return self.own_forward(*args)
        # Branches that a trace takes once for all: by modes and by which modules there are.
        key = tuple((id(m), m.training) for m in self.model.modules())
        if key not in self._graphs:
            self._graphs[key] = paired(self.model, self.own_forward)
        graph = self._graphs[key]
        return (graph or self.own_forward)(*args)

    def give_up(self):
        """No more pairs: the layers one by one."""
        self._pairing = False

    def pairs(self):
        """The names of the convolutions that are one op with what follows."""
        names = {m: name for name, m in self.model.named_modules()}
        graphs = [graph for graph in self._graphs.values() if graph is not None]
        return sorted(
            {
                names[node.target.conv]
                for graph in graphs
                for node in graph.__self__.graph.nodes
                if isinstance(node.target, Block)
            }
        )


def paired(model, forward):
    """The model's forward with blocks in it; None where torch.fx can't follow it or finds none."""
    shell = nn.Module()
    shell.__dict__ = {k: v for k, v in model.__dict__.items() if k != "forward"}
    shell.__class__ = type(model)
    try:
        graph = fx.Tracer().trace(shell)
    except Exception:  # its forward does what a trace can't follow, in one of many ways
        return None
    found = pair_up(graph, shell)
    return fx.GraphModule(shell, graph).forward if found else None


def pair_up(graph, model):
    """Puts blocks into a graph; returns how many."""
    calls = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(model.get_submodule(node.target), []).append(node)
    found = 0
    for node in list(graph.nodes):
        bn = _only(node, graph)
        if not (_is(node, model, nn.Conv2d) and bn is not None and _is(bn, model, nn.BatchNorm2d)):
            continue
        conv, norm = model.get_submodule(node.target), model.get_submodule(bn.target)
        once = len(calls[conv]) == len(calls[norm]) == 1
        plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        if not (once and plain and norm.momentum is not None):
            continue
        nodes, residual, activation = [node, bn], None, None
        user = _only(bn, graph)
        if user is not None and user.target in ADDITIONS and not user.kwargs:
            other = next((a for a in user.args if a is not bn), None)
            if isinstance(other, fx.Node):
                nodes, residual, user = [*nodes, user], other, _only(user, graph)
        if user is not None and (name := _activation(user, model)):
            nodes, activation = [*nodes, user], name
        last = nodes[-1]
        with graph.inserting_before(last):
            block = Block(conv, norm, activation)
            args = node.args if residual is None else (*node.args, residual)
            new = graph.call_function(block, args)
        last.replace_all_uses_with(new)
        for old in reversed(nodes):
            graph.erase_node(old)
        found += 1
    graph.lint()
    return found


def _only(node, graph):
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op != "output" else None


def _is(node, model, cls):
    return node.op == "call_module" and isinstance(model.get_submodule(node.target), cls)


def _activation(node, model):
    """The name of one that the op can do; None of other nodes."""
    if node.op == "call_module":
        classes = type(model.get_submodule(node.target)).__mro__
        return next((ACTIVATIONS[c] for c in classes if c in ACTIVATIONS), None)
    return ACTIVATIONS.get(node.target) if node.op == "call_function" else None
