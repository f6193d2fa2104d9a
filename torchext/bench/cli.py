"""`torchext bench`: honest timings against what you use today."""

import argparse
import contextlib
import sys
from itertools import product
from pathlib import Path

import torch

from . import chart, machine, models, results, table
from .case import SHORT, select
from .contenders import CONTENDERS
from .race import Race
from .runtimes import RUNTIMES

ROUNDS, QUICK_ROUNDS = 15, 5
KNOWN = CONTENDERS + RUNTIMES


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a positive whole number")
    return int(text)


def numbers(text):
    return [positive(word) for word in text.split(",")]


def precisions(text):
    """Cases' names for dtypes, by torch's names for them."""
    for word in text.split(","):
        if word not in SHORT:
            raise argparse.ArgumentTypeError(f"got {word!r}, expected {' or '.join(SHORT)}")
    return [SHORT[word] for word in text.split(",")]


def contenders(names):
    """Those of `names`, and torchext, without which there is nothing to compare."""
    names = names.split(",")
    unknown = set(names) - {c.name for c in KNOWN}
    if unknown:
        raise argparse.ArgumentTypeError(f"no contender is named {', '.join(sorted(unknown))}")
    return tuple(c for c in KNOWN if c.name in {*names, "torchext"})


def parse(argv):
    parser = Parser(prog="torchext bench", description=__doc__)
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="whole models, accelerated, beside the runtimes too; without any, the ops",
    )
    whole = parser.add_argument_group("of whole models", "several with commas between")
    whole.add_argument("-b", "--batch-size", type=numbers, metavar="N", help="default: 1,8")
    whole.add_argument("--precision", type=precisions, metavar="DTYPE", help=",".join(SHORT))
    whole.add_argument("--img-size", type=positive, metavar="N", help="default: the model's own")
    parser.add_argument("--quick", action="store_true", help="a few cases, few rounds")
    parser.add_argument(
        "--filter", default="", metavar="WORDS", help="only cases with all of these in their name"
    )
    parser.add_argument("--list", action="store_true", help="print the cases' names and stop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=positive, default=machine.cores(), help="default: all cores, %(default)s"
    )
    parser.add_argument(
        "--contenders",
        type=contenders,
        default=KNOWN,
        metavar="NAMES",
        help="only these, with commas between: " + ", ".join(c.name for c in KNOWN),
    )
    parser.add_argument("--rounds", type=positive, help=f"default: {ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--json", metavar="FILE", help="or a folder; saved after each case")
    parser.add_argument(
        "--resume", action="store_true", help="keep what FILE has, unless it was disturbed"
    )
    parser.add_argument("--machine", metavar="NAME", help="its name in results, for this CPU's")
    parser.add_argument("--chart", metavar="PNG", help="draw the speed-ups (needs matplotlib)")
    parser.add_argument("--report", metavar="FILE", help="run nothing, show this result file")
    options = parser.parse_args(argv)
    if options.resume and not options.json:
        parser.error("--resume needs --json FILE")
    for flag in ("batch_size", "precision", "img_size"):
        if getattr(options, flag) and not options.models:
            parser.error(f"--{flag.replace('_', '-')} needs a MODEL")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine or this torch has no GPU")
    if options.chart and not chart.available():
        parser.error("--chart needs matplotlib: pip install matplotlib")
    return parser, options


def main(argv):
    parser, options = parse(argv)
    if options.report:
        try:
            document = results.read(options.report)
        except (OSError, ValueError) as error:
            parser.error(f"--report {options.report}: {error}")
    else:
        chosen = choose(parser, options)
        if not chosen:
            parser.error(f"no case is named like {options.filter!r}: see --list")
        if options.list:
            print("\n".join(case.name for _, case in chosen))
            return 0
        document, file = open_document(parser, options)
        try:
            run(document, file, chosen, options)
        except KeyboardInterrupt:
            where = f": --resume goes on from {file}" if file else ""
            print(f"{parser.prog}: interrupted{where}", file=sys.stderr)
            return 130
    print(table.markdown(document))
    if options.chart:
        chart.draw(document, options.chart)
    return 1 if any(item["status"] == "failed" for item in document["not_timed"]) else 0


def choose(parser, options):
    """[(module, Case)] that the options name."""
    if not options.models:
        return select(wanted=options.filter, quick=options.quick, device=options.device)
    try:
        names = models.names(options.models)
    except ValueError as error:
        parser.error(f"MODEL: {error}")
    size = f"/{options.img_size}" if options.img_size else ""
    grid = product(names, options.batch_size or models.BATCHES, options.precision or SHORT.values())
    chosen = [models.case(f"{name}/b{batch}/{dtype}{size}") for name, batch, dtype in grid]
    words = options.filter.split()
    chosen = [case for case in chosen if all(word in case.name for word in words)]
    return [(models.__name__, case) for case in chosen if options.device in case.devices]


def open_document(parser, options):
    """(the document to fill, the file to save it in or None)"""
    document = results.new_document(options.device, options.threads, options.machine)
    if not options.json:
        return document, None
    file = Path(options.json)
    if file.is_dir():
        file /= f"{document['machine_info']['name']}{'-models' if options.models else ''}.json"
    if options.resume and file.exists():
        try:
            results.merge(document, results.read(file))
        except (OSError, ValueError) as error:
            parser.error(f"--resume {file}: {error}")
    return document, file


def run(document, file, chosen, options):
    chosen = remaining(document, chosen)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    with Race(options.threads, rounds, options.contenders) as race, progress(len(chosen)) as step:
        for module, case in chosen:
            step(case.name)
            results.add(document, race.run(module, case))
            if file:
                results.save(document, file)


def remaining(document, chosen):
    """First what has no time, then what other programs disturbed: it is kept until then."""
    timed, disturbed = results.timed(document), results.disturbed(document)
    missing = [(module, case) for module, case in chosen if case.name not in timed]
    return missing + [(module, case) for module, case in chosen if case.name in disturbed]


@contextlib.contextmanager
def progress(total):
    """A function to call with each case's name: a bar with rich on a terminal, else plain lines."""
    try:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        Progress = None
    if Progress is None or not sys.stderr.isatty():
        count = 0

        def step(name):
            nonlocal count
            count += 1
            print(f"[{count}/{total}] {name}", file=sys.stderr, flush=True)

        yield step
        return
    columns = *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()
    # No thread redraws the bar: it would run during the timed calls.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("", total=total)

        def step(name):
            bar.update(task, description=name, advance=1)
            bar.refresh()

        yield step
