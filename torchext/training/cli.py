"""`torchext train`: a classifier of images, from random or from trained weights."""

import contextlib
import dataclasses
import sys
from pathlib import Path

import torch

from .. import accelerate
from .._command import Misuse, Parser, first_line, needed, new_file, print_json
from . import curves, processes, transfer
from .data import open_data
from .loop import Training
from .options import Options

GROUPS = {
    "data": "data",
    "augmentation": "augmentation (mirror, crop, rotation, shear, colour)",
    "transfer": "transfer learning",
    "optimiser": "optimiser and penalties",
    "schedule": "epochs and learning rate",
    "run": "run",
}


def parse(argv):
    """(options, whether to print JSON, where to draw the curves)"""
    parser = Parser("torchext train", __doc__)
    parser.add_model()
    add_options(parser, GROUPS)
    arguments = vars(parser.parse_args(argv))
    json, png = arguments.pop("json"), arguments.pop("curves")
    options = Options(**arguments)
    if not options.data:
        raise ValueError("data: got nothing, expected digits or a folder")
    if png:
        needed("matplotlib")
    return options, json, png


def add_options(parser, groups):
    """The flags of these groups of Options, and of what becomes of the results."""
    for name, title in groups.items():
        group = parser.add_argument_group(title)
        for option in dataclasses.fields(Options):
            if option.metadata["group"] == name:
                _add(group, option)
    parser.add_argument(
        "--curves", metavar="PNG", type=new_file(".png"), help="draw loss and accuracy"
    )
    parser.add_json()


def _add(group, option):
    """The flag of a field."""
    flag, help = "--" + option.name.replace("_", "-"), option.metadata["help"]
    if option.type is bool:
        group.add_argument(flag, action="store_true", help=help)
        return
    if option.default != "":
        help = f"{help} (%(default)s)".strip()
    group.add_argument(
        flag,
        type=option.type,
        default=option.default,
        choices=option.metadata["choices"],
        metavar=None if option.metadata["choices"] else option.type.__name__.upper(),
        help=help,
    )


def main(argv):
    with misuse():
        options, json, png = parse(argv)
    with processes.started(options.device):
        training = run("torchext train", options, json, lambda: prepare(options))
        if processes.rank() == 0:
            conclude(training, json, png)
    return 0


def run(command, options, json, prepare):
    """The Training that `prepare` makes, at its end."""
    with misuse():
        training = prepare()
    first = processes.rank() == 0
    if first and not options.output:
        print(f"{command}: no --output: the model will not be saved", file=sys.stderr)
    try:
        with progress_bar() as bar:
            training.run(print_epoch if first and not json else None, bar)
    except KeyboardInterrupt:
        hint = f": --resume goes on from {options.output}" if options.output else ""
        print(f"{command}: interrupted{hint}", file=sys.stderr)
        sys.exit(130)
    return training


@contextlib.contextmanager
def misuse():
    """What the options' checks find wrong, where the user gave them."""
    try:
        yield
    except ValueError as error:
        raise Misuse(first_line(error)) from error


def prepare(options):
    """The Training of the options: its data, its model, and what of it is trained."""
    torch.manual_seed(options.seed)
    data = open_data(options, *transfer.wanted_images(options))
    model = transfer.build(options, data)
    transfer.freeze(model, options)
    if options.accelerate:
        model = accelerate(model, mode="training")
    if not options.freeze:
        return Training(model, data, options)
    return Training(model, transfer.features(model, data, options), options, model.get_classifier())


def conclude(training, json, png):
    """Draws the curves, prints the result."""
    options, best = training.options, training.best()
    if png:
        curves.draw(training.position.history, png, f"{options.model} on {options.data}")
    if json:
        print_json(facts(training))
        return
    print(f"best: epoch {best['epoch']}, {best['val_accuracy']:.2%} of the validation images right")
    if options.output:
        print(f"saved: {Path(options.output) / 'best.pt'} and last.pt")


def facts(training):
    sizes = [(p.numel(), p.requires_grad) for p in training.model.parameters()]
    return {
        "options": dataclasses.asdict(training.options),
        "classes": training.classes,
        "processes": processes.count(),
        "parameters": sum(n for n, _ in sizes),
        "trained_parameters": sum(n for n, trained in sizes if trained),
        "best": training.best(),
        "history": training.position.history,
    }


def print_epoch(figures):
    print(
        f"epoch {figures['epoch']:3}"
        f"  train loss {figures['train_loss']:.4f} {figures['train_accuracy']:7.2%}"
        f"  val loss {figures['val_loss']:.4f} {figures['val_accuracy']:7.2%}"
        f"  lr {figures['lr']:.2g}  {figures['seconds']:.1f} s",
        flush=True,
    )


@contextlib.contextmanager
def progress_bar():
    """What `fit` calls with each step: rich's bar, on a terminal."""
    try:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        Progress = None
    if Progress is None or processes.rank() or not sys.stderr.isatty():
        yield None
        return
    columns = *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")

        def step(epoch, step, steps, loss):
            description = f"epoch {epoch} loss {loss:.3f}"
            bar.update(task, description=description, completed=step, total=steps)

        yield step
