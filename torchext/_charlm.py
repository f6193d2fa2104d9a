"""`torchext charlm`: learns a text character by character, and writes more of it."""

import dataclasses
from functools import partial

import torch

from ._command import Misuse, Parser, existing_file, positive, print_json, whole
from .models.charlm import CharLM, CharVocabulary
from .models.recurrent import CELLS
from .training import Options, checkpoint, cli, curves, processes
from .training.loop import Training
from .training.text import NextCharacter, pieces_of

GROUPS = {name: cli.GROUPS[name] for name in ("optimiser", "schedule", "run")}
SAMPLED = 200  # characters, of a long text


def parse(argv):
    """(the command's own arguments, Options)"""
    parser = Parser("torchext charlm", __doc__)
    parser.add_argument("file", nargs="?", type=existing_file, metavar="FILE", help="to learn")
    parser.add_argument("--text", help="to learn, in place of a file's")
    parser.add_argument("--load", type=existing_file, metavar="PT", help="learn nothing, load this")
    parser.add_argument("--length", type=positive, default=64, metavar="N", help="of a piece (64)")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="pieces (32)")
    sample = parser.add_argument_group("writing")
    sample.add_argument("--sample", type=whole, metavar="N", help="characters to write")
    sample.add_argument("--prompt", help="what they go on from (the text's first character)")
    sample.add_argument("--temperature", type=float, default=1.0, help="0: the likeliest (1.0)")
    model = parser.add_argument_group("model")
    model.add_argument("--cell", choices=CELLS, default="lstm")
    model.add_argument("--hidden-size", type=positive, default=128, metavar="N", help="(128)")
    model.add_argument("--layers", type=positive, default=1, metavar="N", help="(1)")
    model.add_argument("--embedding", type=positive, metavar="N", help="features (one-hot)")
    model.add_argument("--dropout", type=float, default=0.0, help="between layers (0.0)")
    cli.add_options(parser, GROUPS)
    parser.set_defaults(lr=0.01, sched="constant", epochs=10, clip_grad=1.0, monitor="loss")
    arguments = parser.parse_args(argv)
    if sum(given is not None for given in (arguments.file, arguments.text, arguments.load)) != 1:
        raise ValueError("expected one of FILE, --text and --load")
    names = {option.name for option in dataclasses.fields(Options)}
    told = {name: value for name, value in vars(arguments).items() if name in names}
    data = arguments.text if arguments.file is None else str(arguments.file)
    return arguments, Options(model="charlm", data=data or "", **told)


def main(argv):
    with cli.misuse():
        arguments, options = parse(argv)
        text = arguments.file.read_text() if arguments.file else arguments.text
    with processes.started(options.device):
        if text is None:
            training, model = None, load(arguments.load)
        else:
            build = partial(prepare, text, arguments, options)
            training = cli.run("torchext charlm", options, arguments.json, build)
            model = training.model
        if processes.rank() == 0:
            conclude(text, arguments, model.eval(), training)
    return 0


def prepare(text, arguments, options):
    torch.manual_seed(options.seed)
    vocabulary = CharVocabulary.from_text(text)
    shape = arguments.embedding, arguments.hidden_size, arguments.cell, arguments.layers
    model = CharLM(vocabulary, *shape, arguments.dropout)
    data = pieces_of(text, vocabulary, arguments.length)
    return Training(model, data, options, NextCharacter(model))


def load(file):
    """The CharLM of a checkpoint."""
    with cli.misuse():
        state = checkpoint.load(file)
    if not state.get("config"):
        raise Misuse(f"--load: got {file}, expected a checkpoint that torchext charlm wrote")
    model = CharLM(**state["config"])
    model.load_state_dict(state["model"])
    return model


def conclude(text, arguments, model, training):
    """Writes some text, draws the curves."""
    prompt = arguments.prompt or (text or model.vocabulary.characters)[0]
    count = min(len(text) - 1, SAMPLED) if text else SAMPLED
    count = count if arguments.sample is None else arguments.sample
    generator = torch.Generator(model.fc.weight.device).manual_seed(arguments.seed)
    with cli.misuse():
        sample = model.sample(prompt, count, arguments.temperature, generator)
    if arguments.curves:
        curves.draw(training.position.history, arguments.curves, "a model of characters")
    if arguments.json:
        print_json({**(cli.facts(training) if training else {}), "sample": sample})
    else:
        print(sample)
