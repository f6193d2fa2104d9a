"""The chart of a result file: one bar per case, every case, on a logarithmic axis around 1."""

import importlib.util

from . import table

WIN, LOSS = "#2a7f62", "#c4473a"


def available():
    return importlib.util.find_spec("matplotlib") is not None


def draw(document, path):
    """Writes the PNG."""
    from matplotlib.figure import Figure  # no pyplot: needs no display and keeps no global state

    found = table.rows(document)
    figure = Figure(figsize=(9, 1.2 + 0.17 * len(found)), layout="constrained")
    axes = figure.subplots()
    speedups = [speedup or 1.0 for _, speedup, _ in found]  # a failed case has no bar
    axes.barh(
        range(len(found)),
        [speedup - 1 for speedup in speedups],
        left=1,
        color=[WIN if speedup >= 1 else LOSS for speedup in speedups],
    )
    labels = [f"{cells[0]} ({cells[1]})" for _, _, cells in found]
    axes.set_yticks(range(len(found)), labels, fontsize=6)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.2)
    for y, (_, speedup, cells) in enumerate(found):
        label = f" {speedup:.2f}x {cells[4]}" if speedup else f" {cells[2]}"
        axes.annotate(label, (max(speedup, 1), y), fontsize=5, va="center")
    axes.set_xlabel("speed-up over the fastest other contender (named at the bar)")
    info = document["machine_info"]
    axes.set_title(
        f"{info['name']}, {info['threads']} threads, torch {info['torch']}, "
        f"{document['datetime'][:10]}",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
