"""`torchext list`: the models, and the weights that others publish for them."""

from . import models
from ._command import Misuse, Parser, print_json, print_table
from ._model import skeleton

COLUMNS = {
    "model": "",
    "weights": "",
    "parameters": ",d",
    "GMAC": ".2f",
    "acc@1": ".2f",
    "acc@5": ".2f",
}


def gather(pattern):
    """A row for each of a model's weights; one for a model for which nobody publishes any."""
    return [
        _row(name, weights)
        for name in models.list_models(include=pattern)
        for weights in models.get_model_builder(name).weights or [None]
    ]


def _row(name, weights):
    if weights is None:
        count = sum(p.numel() for p in skeleton(name).parameters())
        return {"model": name, "weights": None, "parameters": count}
    return {
        "model": name,
        "weights": weights.name,
        "default": weights is getattr(type(weights), "DEFAULT", None),
        "parameters": weights.meta["num_params"],
        "GMAC": weights.meta["_ops"],
        **weights.meta["_metrics"]["ImageNet-1K"],
    }


def main(argv):
    parser = Parser("torchext list", __doc__)
    parser.add_argument(
        "pattern", nargs="?", metavar="PATTERN", help="of the names, such as 'resnet*'"
    )
    parser.add_json()
    options = parser.parse_args(argv)
    rows = gather(options.pattern)
    if not rows:
        raise Misuse(f"PATTERN: got {options.pattern!r}, expected one that some model's name fits")
    if options.json:
        print_json(rows)
        return 0
    print_table(COLUMNS, [[row.get(title) for title in COLUMNS] for row in rows])
    return 0
