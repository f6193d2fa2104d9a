"""The command `torchext` (also `python -m torchext`)."""

import argparse
import importlib
import json
import sys

COMMANDS = {
    "info": "what was built, what loaded, and why the rest did not",
    "demo": "the ops verified against PyTorch and timed, in a few seconds",
    "bench": "honest timings against what you use today",
}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="torchext",
        description=__doc__,
        epilog="\n".join(f"  {name:6} {what}" for name, what in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="the command's own, see its --help"
    )
    options = parser.parse_args(argv)
    command = importlib.import_module(f"torchext._{options.command}")
    try:
        return command.main(options.arguments)
    except BrokenPipeError:
        return 0
    except RuntimeError as error:
        print(f"torchext {options.command}: {error}", file=sys.stderr)
        return 1


def print_json(facts):
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    sys.exit(main())
