"""A model's computation as a graph of ATen's functional ops, whatever style its code has."""

import warnings
from dataclasses import dataclass

import torch
from torch import fx
from torch.utils import _pytree as pytree

aten = torch.ops.aten


class NotCapturedError(Exception):
    """Says in one line why there is no graph."""


@dataclass
class Program:
    """graph's placeholders are the inputs' tensors first, in order; then the model's own."""

    graph: fx.Graph
    inputs: list  # placeholders of the call's tensors
    sources: dict  # placeholder -> where its tensor is: (a dict, a key of it)
    out_spec: pytree.TreeSpec


def capture(model, args, kwargs, owner):
    """The program of model(*args, **kwargs) in inference, with the tensors that `owner`, a model
    of the same structure, has at the time of a call."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Of nn.LSTM's list of its own parameters.
            warnings.filterwarnings("ignore", "The tensor attributes? .*_flat_weights")
            exported = torch.export.export(model, args, kwargs, strict=False)
            exported = exported.run_decompositions({})
    except Exception as error:  # export refuses in many ways, none of which is ours
        reason = str(error).strip().partition("\n")[0]
        raise NotCapturedError(f"torch.export: {type(error).__name__}: {reason}") from error
    signature = exported.graph_signature
    if signature.buffers_to_mutate or getattr(signature, "user_inputs_to_mutate", None):
        raise NotCapturedError("its forward changes buffers or inputs")
    graph = exported.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    where = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = signature.inputs_to_lifted_tensor_constants
    inputs, sources = [], {}
    for node in placeholders:
        if node.name in where:
            sources[node] = _slot(owner, where[node.name])
        elif node.name in constants:
            sources[node] = exported.constants, constants[node.name]
        else:
            inputs.append(node)
    leaves = pytree.tree_leaves((args, kwargs))
    for node, leaf in zip(list(inputs), leaves, strict=True):
        if not isinstance(leaf, torch.Tensor):  # the graph has its value
            if node.users:
                raise NotCapturedError(f"an input of type {type(leaf).__name__}")
            inputs.remove(node)
            graph.erase_node(node)
    return Program(graph, inputs, sources, exported.call_spec.out_spec)


def _slot(model, path):
    """Where a parameter or buffer is kept."""
    path, _, name = path.rpartition(".")
    module = model.get_submodule(path)
    held = module._parameters if name in module._parameters else module._buffers
    return held, name


def evaluate(node, env):
    """The value of a call, by those of its inputs."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    return node.target(*args, **kwargs)


def tidy(graph):
    """Fewer spellings of the same: what the patterns need not know."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # what it views may have other strides here
        elif node.target in _COPIES and not _is_returned(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            _tidy_batch_norm(graph, node)
        elif node.target is aten.hardtanh.default and node.args[1:] == (0.0, 6.0):
            node.target, node.args = aten.relu6.default, node.args[:1]
    graph.eliminate_dead_code()


# Of a functional graph's values, copies are the values.
_COPIES = (
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
)


def _is_returned(node):
    return any(user.op == "output" for user in node.users)


def batch_norm(x, weight, bias, mean, var, eps):
    """By running statistics."""
    return torch.nn.functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _tidy_batch_norm(graph, node):
    x, weight, bias, mean, var, _, eps = node.args
    users = list(node.users)
    if any(user.args[1] != 0 for user in users):
        return
    with graph.inserting_before(node):
        new = graph.call_function(batch_norm, (x, weight, bias, mean, var, eps))
    new.meta = dict(users[0].meta)
    for user in users:
        user.replace_all_uses_with(new)
        graph.erase_node(user)
    graph.erase_node(node)
