"""`torchext predict`: what a model sees in images, the likeliest classes first."""

import sys
from pathlib import Path

import torch

from . import models
from ._command import Misuse, Parser, existing, existing_file, positive, print_json
from ._images import Broken, Reader, add_preprocessing, files_of
from ._model import load
from .training import checkpoint


def names_of(options, classes):
    """Of the classes, as far as somebody tells them."""
    if options.labels:
        names = options.labels.read_text().splitlines()
        if len(names) != classes:
            raise Misuse(f"--labels: got {len(names)} lines, expected {classes}, one a class")
        return names
    names = _saved_names(options.weights) or _imagenet()
    return names if len(names) == classes else [f"class {i}" for i in range(classes)]


def _saved_names(weights):
    """Those that a checkpoint of `torchext train` has."""
    if not weights or not Path(weights).is_file() or Path(weights).suffix == ".safetensors":
        return None
    return checkpoint.load(weights).get("classes")


def _imagenet():
    return Path(models.__file__).with_name("imagenet.txt").read_text().splitlines()


@torch.no_grad()
def predict(model, x):
    """The probability of each class."""
    return model(x)[0].float().softmax(-1)


def _top(probabilities, names, count):
    best = probabilities.topk(min(count, len(names)))
    return [
        {"class": i, "name": names[i], "probability": p}
        for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def main(argv):
    parser = Parser("torchext predict", __doc__)
    parser.add_model()
    parser.add_argument(
        "--image", required=True, type=existing, metavar="FILE|FOLDER", help="JPEG and PNG"
    )
    parser.add_weights()
    parser.add_argument("--random", action="store_true", help="random weights will do")
    parser.add_argument(
        "--labels", type=existing_file, metavar="FILE", help="the classes' names, one a line"
    )
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="default: 5")
    add_preprocessing(parser)
    parser.add_json()
    options = parser.parse_args(argv)
    if not options.weights and not options.random:
        raise Misuse("--weights: got none, expected a name or a file (or --random)")
    files = files_of(options.image)
    model = load(options.model, options.weights)
    names = names_of(options, model.num_classes)
    read = Reader(model, options.model, options)
    images, broken = [], []
    for file in files:
        try:
            probabilities = predict(model, read(file))
        except Broken as error:
            print(f"torchext predict: {file}: {error}", file=sys.stderr)
            broken.append({"file": str(file), "reason": str(error)})
            continue
        images.append({"file": str(file), "top": _top(probabilities, names, options.top)})
        if not options.json:
            print(file)
            for one in images[-1]["top"]:
                print(f"{one['probability']:8.2%}  {one['name']}")
    if options.json:
        weights = options.weights or "random"
        facts = {"model": options.model, "weights": weights, "images": images, "broken": broken}
        print_json(facts)
    return 1 if broken else 0
