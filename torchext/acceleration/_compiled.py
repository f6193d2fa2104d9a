"""A program made ready to run for one shape of input: its weights prepared, its code generated."""

import hashlib
import operator

import torch
from torch import fx
from torch.utils import _pytree as pytree

from ._capture import evaluate
from ._lower import constants_of
from ._tuning import tune


class Compiled:
    """`run(*tensors)` gives what the model's forward gives. Weights are prepared (folded, packed)
    once, by `refresh`, and known by their versions; `prepared`, a WeakValueDictionary, has those
    that the model's other shapes hold."""

    def __init__(self, program, places, dtype, prepared):
        self.program, self.places, self.dtype = program, places, dtype
        self.prepared = prepared
        self.graph = program.graph
        self._keep_formats()

    def _keep_formats(self):
        """An image that is returned has the strides that the model's own forward gives it."""
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        returned = []
        for value in output.args[0]:
            like = value.meta.get("val") if isinstance(value, fx.Node) else None
            if isinstance(like, torch.Tensor) and like.dim() == 4:
                with self.graph.inserting_before(output):
                    value = self.graph.call_function(_in_format, (value, like.is_contiguous()))
                value.meta["val"] = like
            returned.append(value)
        output.args = (tuple(returned),)

    # The two halves of the graph: what depends on weights alone, and the rest.

    def prepare(self):
        """Generates the code, once the candidates are chosen."""
        self.graph.eliminate_dead_code()
        self._constants = constants = constants_of(self.graph, self.program.sources)
        users = ((node, user) for node in self._constants for user in node.users)
        self._roots = list(dict.fromkeys(node for node, user in users if user not in constants))
        run, env = fx.Graph(), {}
        for node in (*self.program.inputs, *self._roots):
            env[node] = run.placeholder(node.name)
        for node in self.graph.nodes:
            if node not in constants and node.op != "placeholder":
                env[node] = run.node_copy(node, env.__getitem__)
        self._function = fx.GraphModule({}, run).forward
        self.refresh()

    def sources(self):
        """The tensors that the model has now, in place of those it was built from."""
        return [held[name] for held, name in self.program.sources.values()]

    def follow(self):
        """Prepares the weights again if they are others, or were changed. Each call asks."""
        others = any(map(operator.is_not, self.sources(), self.seen))
        if others or [x._version for x in self._counted] != self._versions:
            self.refresh()

    def _evaluated(self, constants):
        # By all versions together: of a batch norm's buffers, only the number of batches has one
        # that PyTorch's own kernels count up.
        sources = self.sources()
        versions = hash(tuple(None if x.is_inference() else x._version for x in sources))
        env, keys = {}, {}
        for node, tensor in zip(self.program.sources, sources, strict=True):
            env[node] = self._cast(tensor.detach())
            keys[node] = id(tensor), versions
        for node in constants:
            if node in env:
                continue
            keys[node] = _digest(node.target, *fx.map_arg((node.args, node.kwargs), keys.get))
            env[node] = value = self.prepared.get(keys[node])
            if value is None:
                env[node] = value = evaluate(node, env)
                if isinstance(value, torch.Tensor):
                    self.prepared[keys[node]] = value
        return env

    def _cast(self, x):
        return x.to(self.dtype) if self.dtype is not None and x.is_floating_point() else x

    def refresh(self):
        """Prepares the weights anew."""
        with torch.no_grad():
            env = self._evaluated(self._constants)
            self._values = [env[node] for node in self._roots]
            self.seen = self.sources()
            self._counted = [x for x in self.seen if not x.is_inference()]
            self._versions = [x._version for x in self._counted]

    def __call__(self, *tensors):
        if self.dtype is not None:
            given = next(x.dtype for x in tensors if x.is_floating_point())
            outputs = self._function(*map(self._cast, tensors), *self._values)
            outputs = [
                x.to(given) if isinstance(x, torch.Tensor) and x.dtype == self.dtype else x
                for x in outputs
            ]
        else:
            outputs = self._function(*tensors, *self._values)
        return pytree.tree_unflatten(outputs, self.program.out_spec)

    def tune(self, tensors):
        """Chooses among the places' candidates, on these inputs."""
        with torch.no_grad():
            constants = constants_of(self.graph, self.program.sources)
            env = dict(zip(self.program.inputs, map(self._cast, tensors), strict=True))
            tune(self.graph, self.places, env | self._evaluated(constants))


def _digest(*parts):
    """Short for what they print: those of a node's inputs are in its own."""
    return hashlib.sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()


def _in_format(x, contiguous):
    return x.contiguous() if contiguous else x.contiguous(memory_format=torch.channels_last)
