"""torchext.explain tells what ran, and leaves no trace."""

import re
import warnings

import torch

import torchext
from torchext import _explain
from torchext.ops import OPS, _slower


def test_kernels_of_a_training_step():
    model = torch.nn.Sequential(torchext.nn.Conv2d(3, 8, 3), torchext.nn.MaxPool2d(2))
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    steps = torchext.explain(lambda: model(x).sum().backward())
    assert [step.op for step in steps] == [
        "conv2d",
        "max_pool2d",
        "max_pool2d_backward",
        "conv2d_backward_weight",
    ]
    assert steps[0].tensors[0] == "float32[2, 3, 8, 8] channels_last"
    assert all(step.runs.startswith("CPU kernel") for step in steps)
    assert str(steps).count("\n") >= 3
    assert model[0].weight.grad is not None


def test_plain_pytorch_is_named_and_nobody_is_warned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (step,) = torchext.explain(torchext.nn.ReLU(), torch.ones(3, dtype=torch.int64))
    assert step.runs == "plain PyTorch: no kernel for torch.int64"
    assert str(torchext.explain(torch.relu, torch.ones(2))) == "no torchext op ran"


def test_slower_calls_say_so(monkeypatch):
    monkeypatch.setattr(_slower, "_cpu_multiplies_bf16", lambda: True)
    linear = torchext.nn.Linear(8, 8).bfloat16()
    (step,) = torchext.explain(linear, torch.ones(2, 8, dtype=torch.bfloat16, requires_grad=True))
    assert step.slower.startswith("bfloat16 is multiplied in float32")
    norm, x = torchext.nn.LayerNorm(8), torch.ones(2, 8)
    (step,) = torchext.explain(norm, x)
    assert "small tensor (16 elements): autograd" in step.slower
    with torch.no_grad():
        (step,) = torchext.explain(norm, x)
        assert "small tensor (16 elements): a call" in step.slower
        (step,) = torchext.explain(norm, torch.ones(2**13, 8))
        assert step.slower == ""


def test_the_reason_is_printed(monkeypatch):
    monkeypatch.setattr(OPS["activation_inference"], "slower", lambda x, kind: f"kind {kind}")
    (step,) = torchext.explain(torchext.nn.ReLU(), torch.ones(3))
    assert str(step).endswith("\n    slower than PyTorch's own: kind 1")


def test_calls_that_were_measured_to_be_slower(monkeypatch):
    conv, x = torchext.nn.Conv2d(4, 4, 1), torch.ones(1, 4, 2, 2)
    with torch.no_grad():
        (step,) = torchext.explain(conv, x)
        assert step.slower == ""
        assert step.call.endswith("float32[4], None, [1, 1], [0, 0], [1, 1], 1, 0)")
        monkeypatch.setattr(_explain, "_measured", lambda: {step.call: "0.5 of its speed"})
        (step,) = torchext.explain(conv, x)
    assert step.slower == "0.5 of its speed"


def test_measured_calls_are_calls_of_ops():
    calls = list(_explain._measured())
    assert calls
    for call in calls:
        name, arguments = call.removesuffix(")").split("(", 1)
        outside_lists = re.sub(r"\[[^]]*\]", "", arguments)
        schema = getattr(torch.ops.torchext, name).default._schema
        assert outside_lists.count(",") + 1 == len(schema.arguments), call
