"""docs/deployment.md does what it says, and threads that share a model get what one alone gets."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import torchext

for _package in ("onnxruntime", "onnxscript", "safetensors"):
    pytest.importorskip(_package)

PAGE = Path(__file__).parent.parent / "docs" / "deployment.md"


def python(code, folder):
    """A process of its own, with one thread from its start, as the page wants it for forks."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the page's program has run."""
    folder = tmp_path_factory.mktemp("deployment")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    done = python("\n".join(blocks) + "\nprint('all blocks')", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all blocks\n")
    return folder


def test_blocks(folder):
    assert {file.name for file in folder.iterdir()} >= {
        "model.onnx",
        "model.pt2",
        "weights.pth",
        "weights.safetensors",
    }


LOADS = """
import sys, torch

def runs(file, *size):
    y = torch.export.load(file).module()(torch.randn(3, *size))
    return y.shape == (3, 10)

assert runs("model.pt2", 3, 64, 64)
assert "torchext" not in sys.modules
try:
    torch.export.load("lenet.pt2")
    sys.exit("loaded without torchext")
except RuntimeError:
    import torchext
assert runs("lenet.pt2", 1, 32, 32)
"""


def test_another_process_loads_pt2(folder):
    """With torchext's ops in it only where torchext has been imported."""
    model = torchext.models.lenet5().eval()
    dims = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.randn(2, 1, 32, 32),), dynamic_shapes=dims)
    torch.export.save(program, folder / "lenet.pt2")
    done = python(LOADS, folder)
    assert done.returncode == 0, done.stderr
    assert "torchext.conv2d" in done.stderr  # so PyTorch's warning names it


class Block(nn.Module):
    """Kernels to share: convolutions, norms, pooling, attention, linear layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.pointwise = nn.Conv2d(32, 64, 1)
        self.layer_norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 64)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = self.pointwise(self.depthwise(x).relu()).relu()
        x = nn.functional.max_pool2d(x, 2).flatten(2).mT
        x = self.layer_norm(x)
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        return x + self.head(x).softmax(-1)


def test_threads_get_what_one_alone_gets():
    """Bit by bit, whatever shapes the others ask for at the same time."""
    torch.manual_seed(0)
    fast = torchext.accelerate(Block().eval())
    requests = [torch.randn(1 + i % 2, 3, 32, 32 + 16 * (i % 3)) for i in range(12)]
    with torch.no_grad():
        for x in requests:
            fast(x)  # prepares its shape
        alone = [fast(x) for x in requests]
    assert "own forward: torch.export" not in str(fast.torchext_report)
    wrong, start = [], threading.Barrier(3)

    def serve(first):
        start.wait()
        with torch.no_grad():
            for i in range(first, first + 300):
                i %= len(requests)
                if not torch.equal(fast(requests[i]), alone[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=serve, args=(5 * i,)) for i in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # many turns within each call
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not wrong
