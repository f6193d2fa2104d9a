"""`torchext summary`: a model's layers: sizes, parameters, operations and receptive fields."""

import math

from torch import nn

from ._command import Parser, positive, print_json, print_table
from ._layers import pair
from ._model import input_shape, skeleton, traced

COLUMNS = {
    "layer": "",
    "type": "",
    "output": "",
    "kernel": "",
    "parameters": ",d",
    "GMAC": ".3g",
    "GFLOP": ".3g",
    "KB": ",.1f",
    "field": "",
}
NOTES = """\
GMAC counts a multiplication and its addition as one, GFLOP as two; of matrix products, convolutions
and attention only. KB and MB: 1024 and 1024^2 bytes of float32 output. field: pixels of the image
on which a value depends, where convolutions and pooling tell."""


def gather(name, model, shape, depth=None):
    """Everything, as plain data."""
    root = traced(name, model, shape)
    rows = [_row(call, flops, parameters) for call, flops, parameters in _visible(root, depth)]
    outputs = [(call, _kilobytes(call)) for call in root.tree() if not call.calls]
    return {
        "model": name,
        "input": shape,
        "layers": rows,
        "total": {
            "parameters": sum(p.numel() for p in model.parameters()),
            **_operations(root.cost),
            "output_mb": sum(kb for _, kb in outputs) / 1024,
            "convolution_output_mb": sum(kb for call, kb in outputs if _convolves(call)) / 1024,
        },
    }


def _visible(call, depth, level=0):
    """(call, FLOPs, parameters) for each row: of layers, and of blocks for what only they do."""
    if not call.calls or level == depth:
        yield call, call.cost, sum(inner.parameters for inner in call.tree())
        return
    for inner in call.calls:
        yield from _visible(inner, depth, inner.name.count(".") + 1)
    if call.own_cost or call.parameters:
        yield call, call.own_cost, call.parameters


def _row(call, flops, parameters):
    return {
        "name": call.name or "(the rest)",
        "type": type(call.module).__name__,
        "output": call.outputs[0] if call.outputs else None,
        "kernel": " ".join(map(_kernel, call.windows())),
        "parameters": parameters,
        **_operations(flops),
        "output_kb": _kilobytes(call),
        "receptive_field": call.receptive_field,
    }


def _operations(flops):
    return {"gmac": flops / 2e9, "gflop": flops / 1e9}


def _kilobytes(call):
    return sum(map(math.prod, call.outputs)) * 4 / 1024


def _convolves(call):
    return any(isinstance(module, nn.modules.conv._ConvNd) for module in call.windows())


def _kernel(module):
    """Such as 3x3/2."""
    size = "x".join(map(str, pair(module.kernel_size)))
    stride, dilation = pair(module.stride), pair(getattr(module, "dilation", 1))
    groups = getattr(module, "groups", 1)
    text = size if stride == (1, 1) else f"{size}/{_short(stride)}"
    text += "" if dilation == (1, 1) else f" dilation {_short(dilation)}"
    return text if groups == 1 else f"{text} groups {groups}"


def _short(values):
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _cells(row):
    output, field = row["output"], row["receptive_field"]
    return [
        row["name"],
        row["type"],
        "x".join(map(str, output)) if output else None,
        row["kernel"],
        row["parameters"],
        row["gmac"],
        row["gflop"],
        row["output_kb"],
        _short(field) if field else None,
    ]


def main(argv):
    parser = Parser("torchext summary", __doc__)
    parser.add_model()
    parser.add_input()
    parser.add_argument(
        "--depth", type=positive, metavar="N", help="show modules at most so deep, as a whole"
    )
    parser.add_json()
    options = parser.parse_args(argv)
    model = skeleton(options.model)
    shape = input_shape(model, options.model, options.batch, options.image_size)
    facts = gather(options.model, model, shape, options.depth)
    if options.json:
        print_json(facts)
        return 0
    print(f"{options.model}, input {'x'.join(map(str, shape))}\n")
    print_table(COLUMNS, [_cells(row) for row in facts["layers"]])
    total = facts["total"]
    print(
        f"\ntotal: {total['parameters']:,} parameters, {total['gmac']:.4g} GMAC,"
        f" {total['gflop']:.4g} GFLOP; outputs {total['output_mb']:.1f} MB,"
        f" of convolutions {total['convolution_output_mb']:.1f} MB\n\n{NOTES}"
    )
    return 0
