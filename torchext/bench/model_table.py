"""The tables of whole models: every contender's time in a model's row, then geometric means.

A ratio is another contender's time over ours, the median over rounds; eager's is its faster
layout's.
"""

import math
from dataclasses import dataclass

from . import stats
from .case import MODELS
from .results import case_of

TRANSFORMERS = ("deit", "swin", "vit")  # how their names begin
FASTEST = "fastest other"
LAYOUTS = {"eager_channels_last": "eager"}  # of one contender: its faster one counts


@dataclass
class Row:
    name: str
    batch: int
    dtype: str
    origin: str
    seconds: dict  # contender -> median
    ratios: dict  # contender, or FASTEST -> its time over ours
    megabytes: dict  # contender -> of memory, at most
    failed: set  # contenders

    @property
    def group(self):
        return "transformers" if self.name.startswith(TRANSFORMERS) else "CNNs"

    @property
    def setting(self):
        return self.batch, self.dtype


def rows(document):
    """A Row for each model, batch and dtype, transformers last."""
    timed, failed = {}, {}
    for b in document["benchmarks"]:
        if b["extra_info"]["family"] == MODELS:
            timed.setdefault(case_of(b), {})[b["extra_info"]["contender"]] = b
    for item in document["not_timed"]:
        if item["family"] == MODELS:
            contenders = failed.setdefault(case_of(item), set())
            contenders |= {item["contender"]} if item["status"] == "failed" else set()
    found = [_row(case, timed.get(case, {}), failed.get(case, set())) for case in timed | failed]
    return sorted(found, key=lambda row: (row.group, row.name, row.batch, row.dtype != "f32"))


def _row(case, timed, failed):
    name, batch, dtype, *size = case.split("/")
    name = " at ".join((name, *size))
    extras = [b["extra_info"] for b in timed.values()]
    seconds = {contender: b["stats"]["median"] for contender, b in timed.items()}
    origin = extras[0]["origin"] if extras else ""
    memory = {extra["contender"]: extra.get("peak_mb") for extra in extras}
    return Row(name, int(batch[1:]), dtype, origin, seconds, _ratios(extras), memory, failed)


def _ratios(extras):
    rounds = {extra["contender"]: [[s] for s in extra["round_medians"]] for extra in extras}
    ours = next((rounds[extra["contender"]] for extra in extras if extra["ours"]), None)
    found = {}
    for extra in extras:
        if not extra["ours"]:
            name = LAYOUTS.get(extra["contender"], extra["contender"])
            ratio = stats.paired(ours, rounds[extra["contender"]])
            found[name] = min(found.get(name, math.inf), ratio)
    return found | ({FASTEST: min(found.values())} if found else {})


def times(found):
    """(header, lines) of the table of times in ms, the fastest in bold"""
    contenders = _in_order(row.seconds for row in found)
    shown = ("eager", "compile", FASTEST)
    header = ["model", "batch", "dtype", *contenders, *(f"x {name}" for name in shown), "reference"]
    lines = []
    for row in found:
        best = min(row.seconds.values(), default=None)
        cells = [_ms(row.seconds.get(name), name in row.failed, best) for name in contenders]
        ratios = [_ratio(row.ratios.get(name)) for name in shown]
        lines.append([row.name, str(row.batch), row.dtype, *cells, *ratios, row.origin])
    return header, lines


def memory(found):
    """(header, lines) of the most memory that each contender's process had during a call, in MB"""
    contenders = _in_order(row.seconds for row in found)
    lines = []
    for row in found:
        cells = [row.megabytes.get(name) for name in contenders]
        cells = [f"{mb:.0f}" if mb else "" for mb in cells]
        lines.append([row.name, str(row.batch), row.dtype, *cells])
    return ["model", "batch", "dtype", *contenders], lines


def means(found):
    """(header, lines) of geometric means: all, and each group; in all settings, and in each"""
    contenders = _in_order(row.ratios for row in found)
    header = ["models", "batch", "dtype", "cases", *(f"x {name}" for name in contenders)]
    lines = []
    for group in ("all", *sorted({row.group for row in found})):
        members = [row for row in found if group in ("all", row.group)]
        settings = list(dict.fromkeys(row.setting for row in members))
        for setting in (("all", "all"), *settings):
            chosen = [row for row in members if setting in (("all", "all"), row.setting)]
            cells = [_mean(chosen, name) for name in contenders]
            lines.append([group, *map(str, setting), str(len(chosen)), *cells])
    return header, lines


def _mean(chosen, name):
    """Of the cases in which that contender ran, and how many these were if not all."""
    ratios = [row.ratios[name] for row in chosen if name in row.ratios]
    if not ratios:
        return ""
    count = f" ({len(ratios)})" if len(ratios) < len(chosen) else ""
    return _ratio(stats.geometric_mean(ratios)) + count


def _in_order(dictionaries):
    """All their keys, the fastest other's last."""
    names = dict.fromkeys(name for dictionary in dictionaries for name in dictionary)
    return sorted(names, key=lambda name: name == FASTEST)


def _ms(seconds, failed, best):
    if seconds is None:
        return "failed" if failed else ""
    ms = seconds * 1e3
    text = f"{ms:.{2 if ms < 10 else 1 if ms < 100 else 0}f}"
    return f"**{text}**" if seconds == best else text


def _ratio(ratio):
    return "" if ratio is None else f"{ratio:.2f}"
