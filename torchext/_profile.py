"""`torchext profile`: the time of each layer of a model, and how near the limits it comes."""

import math
import statistics
import time
from types import SimpleNamespace

import torch

from ._command import Parser, new_file, picture, positive, print_json, print_table
from ._layers import record
from ._model import input_shape, load, random_input, traced
from .bench.roofline import Yardsticks
from .bench.stats import roofline_s
from .bench.timing import CpuTimer

COLUMNS = {"layer": "", "type": "", "ms": ".3f", "part": ".1%", "GFLOP/s": ".1f", "roofline": ".0%"}
NOTES = """\
roofline: the time that the layer's multiply-adds, or reading its input and weights and writing its
output, take on this machine at best, over the layer's; told from 20 us on. between the layers: what
their modules leave to the blocks, such as residual sums, and measuring."""
LEAST_S = 2e-5  # a tenth of it goes into the hooks and Python
MEASURE_S = 0.02


class Limits:
    """What this machine can do: the copy bandwidth of as many bytes, and multiply-adds."""

    def __init__(self, threads):
        self.yardsticks, self.threads, self.known = Yardsticks(), threads, {}

    def least(self, moved, flops):
        """Seconds that moving so many bytes and doing so many FLOPs takes at best."""
        size = 2 ** math.ceil(math.log2(max(moved, 2)))
        if size not in self.known:
            self.known[size] = self._measured(size)
        return roofline_s(SimpleNamespace(bytes=moved, flops=flops), self.known[size])

    def _measured(self, size):
        like = SimpleNamespace(bytes=size, device="cpu", dtype="float32", autotuned=False)
        rates = {
            name: amount / min(CpuTimer().turn(call, MEASURE_S))
            for name, (call, amount) in self.yardsticks.build(like, self.threads).items()
        }
        bandwidth = rates.pop("copy")
        return {"bytes_per_s": bandwidth, "flops_per_s": max(rates.values())}


def gather(name, model, x, runs):
    """Everything, as plain data."""
    traces = list(traced(name, model, list(x.shape)).tree())
    timed = [list(record(model, x, time.perf_counter).tree()) for _ in range(runs + 1)][1:]
    limits = Limits(torch.get_num_threads())
    layers, between = [], 0
    for trace, *calls in zip(traces, *timed, strict=True):
        seconds = statistics.median(call.own_cost for call in calls)
        if trace.calls and not trace.own_cost:
            between += seconds
        else:
            layers.append(_layer(trace, seconds, limits))
    return {
        "model": name,
        "input": list(x.shape),
        "threads": torch.get_num_threads(),
        "runs": runs,
        "ms": statistics.median(_time(model, x) for _ in range(runs)) * 1e3,
        "layers": layers,
        "between_ms": between * 1e3,
    }


@torch.no_grad()
def _time(model, x):
    begin = time.perf_counter()
    model(x)
    return time.perf_counter() - begin


def _layer(trace, seconds, limits):
    numbers = sum(map(math.prod, trace.inputs + trace.outputs)) + trace.parameters
    least = limits.least(4 * numbers, trace.own_cost) if seconds >= LEAST_S else None
    return {
        "name": trace.name,
        "type": type(trace.module).__name__,
        "ms": seconds * 1e3,
        "gflop_per_s": trace.own_cost / seconds / 1e9 if trace.own_cost else None,
        "roofline": least and least / seconds,
    }


def draw(facts, file):
    """A bar for each layer, as long as its time; how near it is to the roofline beside it."""
    layers = facts["layers"]
    figure = picture(9, 1.2 + 0.17 * len(layers))
    axes = figure.subplots()
    kinds = list(dict.fromkeys(layer["type"] for layer in layers))
    for i, kind in enumerate(kinds):
        rows = [row for row, layer in enumerate(layers) if layer["type"] == kind]
        axes.barh(rows, [layers[row]["ms"] for row in rows], color=f"C{i % 10}", label=kind)
    for row, layer in enumerate(layers):
        if layer["roofline"]:
            axes.annotate(f" {layer['roofline']:.0%}", (layer["ms"], row), fontsize=5, va="center")
    axes.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=6)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlabel("ms, and how much of the roofline that is")
    axes.set_title(_headline(facts), fontsize=9)
    axes.legend(fontsize=6)
    figure.savefig(file, dpi=150)


def _headline(facts):
    size = "x".join(map(str, facts["input"]))
    return f"{facts['model']}, input {size}: {facts['ms']:.2f} ms, threads: {facts['threads']}"


def main(argv):
    parser = Parser("torchext profile", __doc__)
    parser.add_model()
    parser.add_input()
    parser.add_argument("--runs", type=positive, default=10, metavar="N", help="default: 10")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: PyTorch's")
    parser.add_argument("--png", type=new_file(".png"), metavar="FILE", help="draw a picture too")
    parser.add_json()
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.png:
        picture(1, 1)  # says what is missing before anything is timed
    model = load(options.model).to(memory_format=torch.channels_last)
    x = random_input(input_shape(model, options.model, options.batch, options.image_size))
    facts = gather(options.model, model, x, options.runs)
    if options.png:
        draw(facts, options.png)
    if options.json:
        print_json(facts)
        return 0
    print(f"{_headline(facts)}; medians of {facts['runs']} runs\n")
    print_table(COLUMNS, _rows(facts))
    print(f"\n{NOTES}")
    return 0


def _rows(facts):
    total = sum(layer["ms"] for layer in facts["layers"]) + facts["between_ms"]
    for layer in facts["layers"]:
        part = layer["ms"] / total
        rates = layer["gflop_per_s"], layer["roofline"]
        yield [layer["name"], layer["type"], layer["ms"], part, *rates]
    rest = facts["between_ms"]
    yield ["(between the layers)", "", rest, rest / total, None, None]
