"""`torch.compile(model, backend="torchext")`: Dynamo's graphs through accelerate()'s patterns."""

import torch
from torch import nn

from ._use import use


class _Bound(nn.Module):
    """A graph of Dynamo's, whose weights are among its inputs, as a model that has them."""

    def __init__(self, graph, weights):
        super().__init__()
        self.graph, self.names = [graph], {}  # a list: it is no part of this module
        for i, weight in weights.items():
            self.names[i] = f"weight_{i}"
            if isinstance(weight, nn.Parameter):
                self.register_parameter(self.names[i], weight)
            else:
                self.register_buffer(self.names[i], weight)

    def forward(self, *moving):
        rest = iter(moving)
        count = len(moving) + len(self.names)
        args = (
            getattr(self, self.names[i]) if i in self.names else next(rest) for i in range(count)
        )
        return self.graph[0].forward(*args)


def backend(graph, example_inputs):
    """What Dynamo runs for `graph`. Where gradients are wanted, and for dynamic shapes, its
    functions run our kernels; else it is accelerated as a model."""
    training = torch.is_grad_enabled() and any(
        isinstance(x, torch.Tensor) and x.requires_grad for x in example_inputs
    )
    if training or not all(isinstance(x, torch.Tensor) for x in example_inputs):

        def functions(*args):
            with use():
                return graph.forward(*args)

        return functions
    fixed = [i for i, x in enumerate(example_inputs) if _is_weight(x)]
    state = {}

    def run(*args):
        from . import accelerate

        weights = {i: args[i] for i in fixed}
        if not state or any(w is not state["weights"][i] for i, w in weights.items()):
            state["weights"] = weights
            state["model"] = accelerate(_Bound(graph, weights).eval())
        return state["model"](*(x for i, x in enumerate(args) if i not in weights))

    return run


def _is_weight(x):
    return isinstance(x, nn.Parameter) or getattr(x, "_dynamo_static_input_type", None) is not None
