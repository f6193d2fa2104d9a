"""The chart of a result file: one bar per case, every case, on a logarithmic axis around 1.

Of whole models: one row per model, with a mark for each peer.
"""

import importlib.util

from . import model_table, stats, table

WIN, LOSS = "#2a7f62", "#c4473a"
MARKS = {  # of whole models' peers
    "eager": ("o", "C0"),
    "compile": ("s", "C1"),
    "onnxruntime": ("D", "C2"),
    "openvino": ("v", "C4"),
    "ncnn": ("^", "C5"),
    "zentorch": ("P", "C6"),
}
MEAN = "geometric mean"


def available():
    return importlib.util.find_spec("matplotlib") is not None


def draw(document, path):
    """Writes the PNG."""
    figure_of(document).savefig(path, dpi=150)


def figure_of(document):
    models = model_table.rows(document)
    figure = _of_models(models) if models else _of_ops(table.rows(document))
    info = document["machine_info"]
    title = (
        f"{info['name']}, {info['threads']} threads, torch {info['torch']}, "
        f"{document['datetime'][:10]}"
    )
    if models:
        title += "\nspeed-up over each peer: right of 1, torchext is faster"
    figure.suptitle(title, fontsize=9)
    return figure


def _figure(width, height):
    from matplotlib.figure import Figure  # no pyplot: needs no display and keeps no global state

    return Figure(figsize=(width, height), layout="constrained")


def _speedup_axis(axes):
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)


def _of_ops(found):
    figure = _figure(9, 1.2 + 0.17 * len(found))
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
    _speedup_axis(axes)
    axes.margins(x=0.2)
    for y, (_, speedup, cells) in enumerate(found):
        label = f" {speedup:.2f}x {cells[4]}" if speedup else f" {cells[2]}"
        axes.annotate(label, (max(speedup, 1), y), fontsize=5, va="center")
    axes.set_xlabel("speed-up over the fastest other contender (named at the bar)")
    return figure


def _of_models(found):
    """Side by side for each batch and dtype; the last row is the geometric mean."""
    names = [*dict.fromkeys(row.name for row in found), MEAN]
    settings = sorted({row.setting for row in found}, key=lambda s: (s[1] != "f32", s[0]))
    figure = _figure(10, 1.6 + 0.22 * len(names))  # 800 pixels wide, an inch has 80
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, settings, strict=True):
        of_this = [row for row in found if row.setting == setting]
        for peer in MARKS:
            _mark(axes, peer, {r.name: r.ratios[peer] for r in of_this if peer in r.ratios}, names)
        _speedup_axis(axes)
        axes.axhline(len(names) - 1.5, color="black", linewidth=0.8)
        axes.grid(axis="y", alpha=0.3)
        axes.set_title(f"batch {setting[0]}, {setting[1]}", fontsize=10)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    legends = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels]
    marks = {peer: mark for legend in legends for mark, peer in legend}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks))
    return figure


def _mark(axes, peer, ratios, names):
    if not ratios:
        return
    ratios = ratios | {MEAN: stats.geometric_mean(ratios.values())}
    marker, color = MARKS[peer]
    where = [names.index(name) for name in ratios]
    axes.scatter(ratios.values(), where, 22, color, marker=marker, label=peer, zorder=2)
