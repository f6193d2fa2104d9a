"""The command `torchext` (also `python -m torchext`)."""

import argparse
import importlib
import sys

from ._command import Misuse, Parser, first_line
from ._command import print_json as print_json

COMMANDS = {
    "info": "what was built, what loaded, and why the rest did not",
    "demo": "some models verified against PyTorch and timed, in a minute",
    "list": "the models, and the weights that others publish for them",
    "summary": "a model's layers: sizes, parameters, operations, receptive fields",
    "verify": "each layer of a model, and the whole, against PyTorch in float64",
    "profile": "the time of each layer, and how near it is to the machine's limits",
    "predict": "what a model sees in images",
    "filters": "a picture of a model's first filters, and of what they find",
    "export": "a model as a file for other runtimes, compared with it",
    "train": "trains a classifier of images",
    "charlm": "trains a character model on a text, and writes more of it",
    "bench": "honest timings against what you use today",
}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    name = "torchext"
    try:
        options = _parse(argv)
        name = f"torchext {options.command}"
        return importlib.import_module(f"torchext._{options.command}").main(options.arguments)
    except BrokenPipeError:
        return 0
    except Misuse as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"{name}: {first_line(error)}", file=sys.stderr)
        return 1


def _parse(argv):
    parser = Parser("torchext", __doc__)
    parser.epilog = "\n".join(f"  {name:8} {what}" for name, what in COMMANDS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="the command's own, see its --help"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
