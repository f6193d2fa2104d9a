"""Where no kernel runs: PyTorch's own result, one notice per site, and what rules it."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

import torchext
from torchext.nn import functional as F
from torchext.ops._op import Op

INTEGERS = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)


def run(code, **environment):
    """What a fresh process prints: both streams."""
    command = [sys.executable, "-c", "import torch, torchext\nF = torchext.nn.functional\n" + code]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return result.returncode, result.stdout + result.stderr


def test_integers_run_as_pytorch_with_a_notice():
    with pytest.warns(torchext.FallbackWarning, match=r"max_pool2d_inference .* torch.int64"):
        y = F.max_pool2d(INTEGERS, 2)
    assert torch.equal(y, torch.nn.functional.max_pool2d(INTEGERS, 2))


def test_one_notice_per_site():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            F.max_pool2d(INTEGERS, 2)
        F.max_pool2d(INTEGERS, 2)
    assert len(seen) == 2
    assert {warning.filename for warning in seen} == {__file__}


def test_other_devices_run_the_decomposition():
    """A device without kernels of ours gets the composite implementation; meta gets the fake."""
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert kernel("torchext::max_pool2d", "CompositeExplicitAutograd")
    y = F.max_pool2d(torch.randn(1, 2, 4, 4, device="meta"), 2)
    assert (y.shape, y.device.type) == ((1, 2, 2, 2), "meta")


@pytest.mark.parametrize(
    ("choice", "status", "words"),
    [
        ("warn", 0, "FallbackWarning: torchext: max_pool2d_inference runs as plain PyTorch here"),
        ("silent", 0, "right\n"),
        ("error", 1, "RuntimeError: torchext: max_pool2d_inference runs as plain PyTorch here"),
        ("loud", 1, "TORCHEXT_FALLBACK: got 'loud', expected one of warn, error, silent"),
    ],
)
def test_choice(choice, status, words):
    code = "assert F.max_pool2d(torch.arange(16).view(1, 1, 4, 4), 2).sum() == 40\nprint('right')"
    got, printed = run(code, TORCHEXT_FALLBACK=choice)
    assert got == status
    assert words in printed
    if choice == "silent":
        assert printed == words


def test_disabled():
    code = """
from torch.utils._python_dispatch import TorchDispatchMode
class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.namespace != "torchext", function
        return function(*args, **(kwargs or {}))
x = torch.randn(1, 2, 9, 9, requires_grad=True)
with Seen():
    y = F.max_pool2d(x, 3, 2, 1, return_indices=True)[0].sum() + F.avg_pool2d(x, 2).sum()
    (y + torchext.nn.AdaptiveAvgPool2d(1)(x).sum()).backward()
print("right")
"""
    assert run(code, TORCHEXT_DISABLE="1", TORCHEXT_FALLBACK="error") == (0, "right\n")


@pytest.mark.parametrize("function", ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"])
def test_autocast_leaves_pooling_in_its_inputs_type(function):
    """As torch does: pooling is in none of its lists."""
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1, 2, 6, 6, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = getattr(F, function)(x, 2)
            assert y.dtype == getattr(torch.nn.functional, function)(x, 2).dtype == dtype
        y.sum().backward()
        assert x.grad.dtype == dtype


def test_autocast_casts_what_an_op_names(monkeypatch):
    """The mechanism, on an op of its own: `x` and `weight` are cast, `statistics` stays."""
    from torchext.ops import _op

    library = torch.library.Library("torchext_autocast", "DEF")
    library.define("scale(Tensor x, Tensor weight, Tensor statistics) -> (Tensor, Tensor)")
    monkeypatch.setattr(_op, "OPS", {})  # not one of the ops
    monkeypatch.setattr(_op._load, "why_not_loaded", {"cpu": "not registered as torchext::scale"})
    op = Op(
        name="scale",
        decomposition=lambda x, weight, statistics: (x * weight, statistics + 1),
        fake=lambda x, weight, statistics: (torch.empty_like(x), torch.empty_like(statistics)),
        autocast=("x", "weight"),
    )
    _op.register(op, "torchext_autocast")
    library.impl("scale", op.decomposition, "CPU")
    tensors = torch.randn(3), torch.randn(3), torch.randn(3)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            y, statistics = torch.ops.torchext_autocast.scale(*tensors)
            doubles = torch.ops.torchext_autocast.scale(*(x.double() for x in tensors))
        assert (y.dtype, statistics.dtype) == (dtype, torch.float32)
        assert [y.dtype for y in doubles] == [torch.float64] * 2  # which torch never casts
    assert torch.ops.torchext_autocast.scale(*tensors)[0].dtype == torch.float32
