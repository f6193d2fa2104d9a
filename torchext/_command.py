"""What the commands share: arguments, errors of one line, tables, JSON and pictures."""

import argparse
import difflib
import importlib
import json
from pathlib import Path


class Misuse(Exception):  # noqa: N818 - its message is what users see
    """The command was called wrongly: one line on stderr, exit status 2."""


class Parser(argparse.ArgumentParser):
    def __init__(self, prog, description):
        super().__init__(prog, description=description, allow_abbrev=False)

    def error(self, message):
        raise Misuse(message.removeprefix("argument "))

    def add_json(self):
        self.add_argument("--json", action="store_true", help="print the facts as JSON")

    def add_model(self):
        self.add_argument("model", type=model_name, metavar="MODEL", help="see torchext list")

    def add_weights(self):
        self.add_argument(
            "--weights",
            metavar="NAME|FILE",
            help="published ones, such as DEFAULT, or a .safetensors or .pth file",
        )

    def add_input(self):
        self.add_argument("--batch", type=positive, default=1, metavar="N", help="images at once")
        self.add_image_size()

    def add_image_size(self):
        self.add_argument(
            "--image-size", type=positive, metavar="N", help="height and width, for the model's own"
        )


def expected(text, what):
    """What the type of an argument raises."""
    return argparse.ArgumentTypeError(f"got {text!r}, expected {what}")


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise expected(text, "a positive whole number")
    return int(text)


def whole(text):
    if not text.isdecimal():
        raise expected(text, "a whole number")
    return int(text)


def numbers(text):
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise expected(text, "numbers with commas between") from None


def existing_file(text):
    if not Path(text).is_file():
        raise expected(text, "a file")
    return Path(text)


def existing(text):
    if not Path(text).exists():
        raise expected(text, "a file or a folder")
    return Path(text)


def new_file(*suffixes):
    """The type of an argument that names a file to write, whose folder is there."""

    def file(text):
        if not Path(text).parent.is_dir() or Path(text).is_dir():
            raise expected(text, "a file in a folder that exists")
        if not text.endswith(suffixes):
            raise expected(text, f"a name that ends with {' or '.join(suffixes)}")
        return Path(text)

    return file


def model_name(text):
    names = importlib.import_module("torchext.models").list_models()
    if text not in names:
        close = difflib.get_close_matches(text, names) or ["resnet18"]
        raise expected(text, f"a name that torchext list prints, such as {', '.join(close)}")
    return text


def needed(package, pip=None):
    """The package, or how to install it: torchext itself needs torch and numpy only."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise Misuse(f"{package} is not installed: pip install {pip or package}") from None


def first_line(error):
    return str(error).strip().partition("\n")[0]


def print_json(facts):
    print(json.dumps(facts, indent=1))


def print_table(columns, rows):
    """columns: {title: how to format a number}; "" for text, which goes to the left."""
    cells = [
        [
            "" if cell is None else format(cell, how)
            for cell, how in zip(row, columns.values(), strict=True)
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        aligned = (
            cell.rjust(width) if how else cell.ljust(width)
            for cell, width, how in zip(row, widths, columns.values(), strict=True)
        )
        print("  ".join(aligned).rstrip())


def picture(width, height):
    """An empty one, in inches: no pyplot, which needs a display and keeps all figures."""
    figures = needed("matplotlib.figure", "matplotlib")
    return figures.Figure(figsize=(width, height), layout="constrained")
