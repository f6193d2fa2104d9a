"""What accelerate() does with models on GPUs, as far as that shows without one."""

import pytest
import torch
from torch import nn

import torchext
from torchext.acceleration import _forward, _timing
from torchext.acceleration._capture import capture, evaluate, tidy
from torchext.acceleration._lower import constants_of, lower
from torchext.ops import _triton


class Block(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 24, 1),
            nn.BatchNorm2d(24),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24 * 16, 10),
            nn.GELU(),
            nn.LayerNorm(10),
        )


@pytest.fixture
def lowered(monkeypatch):
    """A program lowered as for a device that is no CPU, and values of its inputs and constants."""
    monkeypatch.setattr(_triton, "serves_cuda", lambda name: False)  # the CUDA library has it all
    model, x = Block().eval(), torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        expected = model(x)
        program = capture(model, (x,), {}, model)
        tidy(program.graph)
        for node in program.graph.nodes:
            if isinstance(value := node.meta.get("val"), torch.Tensor):
                node.meta["val"] = torch.empty_like(value, device="meta")
        places = lower(program, "fast")
    env = {program.inputs[0]: x}
    env |= {node: held[name] for node, (held, name) in program.sources.items()}
    return program, places, env, expected


def run(program, env):
    env = dict(env)
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "call_function":
                env[node] = evaluate(node, env)
            elif node.op == "output":
                return env[node.args[0][0]]


def test_every_candidate_is_right(lowered):
    program, places, env, expected = lowered
    for place in places:
        names = [candidate.name for candidate in place.candidates]
        assert "ATen" in names, names
        assert "torchext, Triton" in names, names
        for index in range(len(place.candidates)):
            place.choose(index)
            torch.testing.assert_close(run(program, env), expected, rtol=1e-4, atol=1e-4)
        place.choose(0)


def test_weights_are_not_packed(lowered):
    program, places, _, _ = lowered
    targets = {str(c.target) for place in places for c in place.candidates}
    targets |= {str(node.target) for node in constants_of(program.graph, program.sources)}
    assert not [target for target in targets if "pack" in target or "winograd" in target]


def test_nothing_is_built_while_a_graph_is_captured(monkeypatch):
    model, x = Block().eval(), torch.randn(2, 8, 8, 8)
    fast = torchext.accelerate(model)
    monkeypatch.setattr(_forward, "_is_capturing", lambda tensors: True)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        assert "graph was captured" in str(fast.torchext_report)
        monkeypatch.undo()
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert "conv2d" in str(fast.torchext_report)


def test_timing_waits_for_the_gpu(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(3, device="cuda")
    _timing.least_times([lambda: None], 0.001, _timing.waiter([1, x]))
    assert set(waits) == {x.device}
    assert len(waits) > _timing.LEAST_TURNS
    assert _timing.waiter([torch.ones(1)]) is _timing._at_once
