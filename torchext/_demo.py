"""`torchext demo`: models verified against PyTorch in float64, accelerated, and timed beside it."""

from functools import partial

import torch

from . import models, nn
from ._command import Parser, print_json, print_table
from ._layers import trace
from ._model import on_meta, random_input
from ._verify import Referee, sum_lengths, unlike
from .acceleration import accelerate
from .acceleration._timing import least_times
from .ops._op import disabled

IMAGE = 1, 3, 224, 224
CASES = {  # name: (how to build it, the shape of its input)
    "MobileNet": (models.mobilenet, IMAGE),
    "ResNet-18": (models.resnet18, IMAGE),
    "ViT-Ti/16": (models.vit_tiny_patch16_224, IMAGE),
    "LSTM, 2 layers": (partial(nn.LSTM, 128, 256, 2, batch_first=True), (8, 32, 128)),
}
COLUMNS = {
    "model": "",
    "input": "",
    "parameters": ",d",
    "GMAC": ".2f",
    "error": ".1e",
    "PyTorch's": ".1e",
    "": "",
    "ms": ".2f",
    "accelerated": ".2f",
    "PyTorch": ".2f",
    "speed-up": ".2f",
}
TIMED_S = 2  # of each case


@torch.inference_mode()
def show(name):
    """Everything about one case, as plain data."""
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = unlike(build().eval())
    root = trace(on_meta(model), shape)
    model.to(memory_format=torch.channels_last)
    referee, x = Referee(model), random_input(shape)
    fast = accelerate(model, x)
    sum_length = max(sum_lengths(root).values(), default=1)
    verdicts = [referee.compare("", ((x,), {}), sum_length, run) for run in (model, fast)]

    def theirs():
        with disabled():
            referee.single(x)

    ours_s, fast_s, theirs_s = least_times([partial(model, x), partial(fast, x), theirs], TIMED_S)
    return {
        "model": name,
        "input": list(shape),
        "parameters": sum(p.numel() for p in model.parameters()),
        "GMAC": root.cost / 2e9,
        "error": max(verdict.error for verdict in verdicts),
        "torch_error": verdicts[0].torch_error,
        "right": all(verdict.right for verdict in verdicts),
        "ms": ours_s * 1e3,
        "accelerated_ms": fast_s * 1e3,
        "torch_ms": theirs_s * 1e3,
        "speedup": theirs_s / fast_s,
    }


def _cells(row):
    shape, right = "x".join(map(str, row["input"])), "ok" if row["right"] else "WRONG"
    return list((row | {"input": shape, "right": right}).values())


def main(argv):
    parser = Parser("torchext demo", __doc__)
    parser.add_json()
    options = parser.parse_args(argv)
    rows = [show(name) for name in CASES]
    wrong = sum(not row["right"] for row in rows)
    if options.json:
        print_json({"models": rows, "wrong": wrong})
    else:
        print_table(COLUMNS, map(_cells, rows))
        print("all right" if not wrong else f"{wrong} WRONG")
    return 1 if wrong else 0
