"""Writes torchext/slower.json: the calls that a run of `torchext bench` found slower than PyTorch.

    python benchmarks/slower.py benchmarks/results/amd-epyc-2core-f32.json

torchext.explain reads it. A call is slower if both its fastest and its median time are more than a
tenth behind those of the faster of eager's layouts.
"""

import contextlib
import json
import sys
from pathlib import Path

import torch

import torchext
from torchext.bench.case import bind, prepare, select

TO = Path(torchext.__file__).with_name("slower.json")
BEHIND = 0.9


def ratios(document):
    """{case: our speed beside the faster of eager's layouts, the better of two measures}"""
    times = {}
    for benchmark in document["benchmarks"]:
        contender, stats = benchmark["params"]["contender"], benchmark["stats"]
        times.setdefault(benchmark["group"], {})[contender] = stats["min"], stats["median"]
    found = {}
    for case, by_contender in times.items():
        ours = by_contender.pop("torchext", None)
        if ours is None or not by_contender:  # one of them failed
            continue
        eager = [min(column) for column in zip(*by_contender.values(), strict=True)]
        found[case] = max(theirs / mine for theirs, mine in zip(eager, ours, strict=True))
    return found


def call_of(case):
    """The call that the case times, as torchext.explain words it; none if there are several."""
    function = bind(case, prepare(case, case.ours(), case.layout), case.layout)
    with contextlib.nullcontext() if case.training else torch.inference_mode():
        calls = [step.call for step in torchext.explain(function) if "_backward" not in step.op]
    return calls[0] if len(calls) == 1 else None


def main(path):
    document = json.loads(Path(path).read_text())
    cases = {case.name: case for _, case in select()}
    slow = {name: ratio for name, ratio in ratios(document).items() if ratio < BEHIND}
    calls = {call_of(cases[name]): round(ratio, 2) for name, ratio in slow.items()}
    calls.pop(None, None)  # of several ops none is to blame
    machine, date = document["machine_info"]["name"], document["datetime"][:10]
    table = {"machine": machine, "date": date, "calls": dict(sorted(calls.items()))}
    TO.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{len(calls)} calls in {TO}")


if __name__ == "__main__":
    main(sys.argv[1])
