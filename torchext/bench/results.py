"""Results as JSON: pytest-benchmark's format, one benchmark per case and contender.

What we add stands in each benchmark's "extra_info", and for what has no time in the top-level list
"not_timed". No samples are kept: their summary, and each round's median.
"""

import json
import os
import statistics
from pathlib import Path

from . import machine, stats

PARTS = ("benchmarks", "not_timed")
INTRUDERS = 0.2  # threads, on average: more make a case noisy
FORMAT = "5.0.0"  # the version of pytest-benchmark whose format this is


def new_document(device, threads, name=None):
    return {
        "machine_info": machine.describe(device, threads, name),
        "commit_info": machine.revision() | {"code": machine.code()},
        "benchmarks": [],
        "not_timed": [],
        "datetime": machine.now(),
        "version": FORMAT,
    }


def add(document, outcome):
    """Adds the case's benchmarks, in place of earlier ones."""
    for part in PARTS:
        document[part] = [b for b in document[part] if case_of(b) != outcome.case.name]
    made = {"revision": _revision(document), "code": document["commit_info"]["code"]}
    for name, entry in outcome.entries.items():
        if entry.rounds:
            extra = extra_info(outcome, name) | made | {"date": machine.now()}
            document["benchmarks"].append(
                {
                    "group": outcome.case.name,
                    "name": f"{outcome.case.name}[{name}]",
                    "fullname": f"{outcome.case.name}[{name}]",
                    "params": {"case": outcome.case.name, "contender": name},
                    "param": f"{outcome.case.name}-{name}",
                    "extra_info": extra,
                    "options": {},
                    "stats": stats.summary(entry.samples, entry.calls),
                }
            )
    document["not_timed"] += not_timed(outcome)


def merge(document, old):
    """Takes over the cases that an earlier run here timed, each with the code that it had then."""
    if old["machine_info"] != document["machine_info"]:
        raise ValueError("its machine_info is another: measured elsewhere, or beside another torch")
    kept = timed(old)
    for part in PARTS:
        document[part] = [item for item in old[part] if case_of(item) in kept]


def timed(document):
    return {case_of(b) for b in document["benchmarks"]}


def revisions(document):
    """Of the code that was timed, in the order of the cases; "+" where it was changed since."""
    of_file = _revision(document)  # older files have no other
    found = [b["extra_info"].get("revision", of_file) for b in document["benchmarks"]]
    return list(dict.fromkeys(found)) or [of_file]


def _revision(document):
    return document["commit_info"]["id"] + "+" * document["commit_info"]["dirty"]


def disturbed(document):
    """The cases during which other programs took a noticeable share of the cores."""
    return {case_of(b) for b in document["benchmarks"] if b["extra_info"]["intruders"] > INTRUDERS}


def case_of(item):
    return item["group"] if "group" in item else item["case"]


def not_timed(outcome):
    """The contenders without a time, and why."""
    return [
        {
            "case": outcome.case.name,
            "family": outcome.case.family,
            "contender": name,
            "ours": entry.ours,
            "status": entry.status,
            "reason": entry.reason,
            "case_failed": bool(outcome.failed),
        }
        for name, entry in outcome.entries.items()
        if not entry.rounds
    ]


def extra_info(outcome, name):
    """Everything about a contender's time that pytest-benchmark does not know."""
    case, entry = outcome.case, outcome.entries[name]
    fastest = stats.minimum(entry.rounds)
    least = stats.roofline_s(case, outcome.limits)
    limits = outcome.limits or {}
    return {
        "case": case.name,
        "family": case.family,
        "contender": name,
        "ours": entry.ours,
        "version": entry.version,
        "origin": case.origin,
        "dtype": case.dtype,
        "layout": case.layout,
        "batch": case.batch,
        "device": case.device,
        "threads": outcome.threads,
        "training": case.training,
        "bytes": case.bytes,
        "flops": case.flops,
        "error": entry.verdict.error,
        "error_allowed": entry.verdict.allowed,
        "gb_per_s": case.bytes / fastest / 1e9,
        "gflop_per_s": case.flops / fastest / 1e9,
        "roofline_percent": 100 * least / fastest if least else None,
        "roofline_gb_per_s": limits["bytes_per_s"] / 1e9 if limits else None,
        "roofline_gflop_per_s": limits["flops_per_s"] / 1e9 if limits else None,
        "peak_mb": entry.peak_bytes and entry.peak_bytes / 1e6,
        "speedup": entry.speedup,
        "round_medians": [statistics.median(samples) for samples in entry.rounds],
        "intruders": outcome.intruders,
    }


def save(document, path):
    """All or nothing: a run that is interrupted leaves the last complete file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, path)


def read(path):
    document = json.loads(Path(path).read_text())
    if not isinstance(document, dict) or "benchmarks" not in document:
        raise ValueError("not a pytest-benchmark file")
    if any("speedup" not in b["extra_info"] for b in document["benchmarks"]):
        raise ValueError("not measured by this harness")
    document.setdefault("not_timed", [])
    return document
