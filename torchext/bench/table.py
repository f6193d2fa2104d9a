"""The table of a result file: every case, whoever won, the slowest first within its family.

Whole models have tables of their own: model_table.py.
"""

from . import model_table, results, stats
from .case import MODELS

COLUMNS = (
    "case",
    "contender",
    "us (median)",
    "us (min)",
    "fastest other",
    "us (median)",
    "speed-up",
    "of minima",
    "of medians",
    "GB/s",
    "GFLOP/s",
    "roofline",
)


def rows(document):
    """(family, speed-up, cells) for each op's case and contender of ours, sorted."""
    times = {(b["group"], b["extra_info"]["contender"]): b for b in document["benchmarks"]}
    found, failed = [], []
    for b in times.values():
        extra = b["extra_info"]
        if extra["speedup"]:
            other = times[b["group"], extra["speedup"]["against"]]
            found.append((extra["family"], extra["speedup"]["paired"], _cells(b, extra, other)))
        elif extra["ours"]:
            failed.append((extra, "no other contender ran"))
    failed += [
        (item, item["reason"])
        for item in document["not_timed"]
        if item["ours"] and (item["status"] == "failed" or item["case_failed"])
    ]
    blank = [""] * (len(COLUMNS) - 3)
    found += [
        (item["family"], 0.0, [item["case"], item["contender"], f"failed: {reason}", *blank])
        for item, reason in failed
    ]
    return sorted(row for row in found if row[0] != MODELS)


def _cells(b, extra, other):
    speedup, roofline = extra["speedup"], extra["roofline_percent"]
    return [
        extra["case"],
        extra["contender"],
        _us(b["stats"]["median"]),
        _us(b["stats"]["min"]),
        speedup["against"],
        _us(other["stats"]["median"]),
        f"{speedup['paired']:.2f}",
        f"{speedup['min']:.2f}",
        f"{speedup['median']:.2f}",
        f"{extra['gb_per_s']:.1f}" if extra["bytes"] else "",
        f"{extra['gflop_per_s']:.1f}" if extra["flops"] else "",
        f"{roofline:.0f}%" if roofline else "",
    ]


def _us(seconds):
    return f"{seconds * 1e6:.4g}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def families(found):
    """[(family, contender, cases, geometric mean, worst case's name, its speed-up, failed)]"""
    groups = {}
    for family, speedup, cells in found:
        groups.setdefault((family, cells[1]), []).append((speedup, cells[0]))
    summary = []
    for (family, contender), group in sorted(groups.items()):
        good = [(speedup, case) for speedup, case in group if speedup]
        worst = min(good, default=(0.0, ""))
        mean = stats.geometric_mean([s for s, _ in good]) if good else 0.0
        failed = len(group) - len(good)
        summary.append((family, contender, len(group), mean, worst[1], worst[0], failed))
    return summary


def markdown(document):
    """The whole report: machine, cases, families, whole models, contenders that are missing."""
    parts = [_machine(document), *_ops(document), *_models(document), *_notes(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(document):
    info, revisions = document["machine_info"], results.revisions(document)
    where = info["gpu"]["name"] if "gpu" in info else info["cpu"]["brand_raw"]
    return (
        f"{info['name']}: {where}, {info['threads']} threads ({info['isa']}), "
        f"torch {info['torch']}, torchext {info['torchext']} at {', '.join(revisions)}, "
        f"{document['datetime'][:10]}."
    )


def _ops(document):
    found = rows(document)
    if not found:
        return []
    summary = [
        [family, contender, str(n), f"{mean:.2f}", f"{worst:.2f}", case, str(failed)]
        for family, contender, n, mean, case, worst, failed in families(found)
    ]
    header = ("family", "contender", "cases", "geometric mean", "worst", "worst case", "failed")
    return [
        "Speed-up: the fastest other contender's time over ours, the median of per-round ratios; "
        "above 1, ours is faster.\nRoofline: the time that copying the necessary bytes (or the "
        "multiply-adds) takes on this machine, over our fastest.",
        _table(COLUMNS, [cells for _, _, cells in found]),
        _table(header, summary),
    ]


def _models(document):
    found = model_table.rows(document)
    if not found:
        return []
    return [
        "Whole models in inference: medians in ms, the fastest in bold. x: the other's time over "
        "ours, the median of per-round ratios; above 1, ours is faster. Eager's is its faster "
        "layout's. reference: whose model all contenders run.",
        _table(*model_table.times(found)),
        "Geometric means (of so many cases, where not all).",
        _table(*model_table.means(found)),
        "The most memory that a contender's process has during a call, in MB, libraries and all.",
        _table(*model_table.memory(found)),
    ]


def _table(header, body):
    if not body:
        return ""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [header, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"
        for cells in lines
    )


def _notes(document):
    """One line per contender that did not run, per failure of another, and about noise."""
    notes = {}
    for item in document["not_timed"]:
        if item["status"] != "untimed":
            key = f"{item['contender']} {item['status']}: {item['reason']}"
            notes.setdefault(key, []).append(item["case"])
    cases = {case for where in notes.values() for case in where}
    cases |= {b["group"] for b in document["benchmarks"]}
    lines = [
        f"- {note}" + (f" ({len(where)} of {len(cases)} cases)" if len(where) < len(cases) else "")
        for note, where in sorted(notes.items())
    ]
    noisy = results.disturbed(document)
    if noisy:
        lines.append(f"- other programs were running during {len(noisy)} of {len(cases)} cases")
    return ["\n".join(lines)] if lines else []
