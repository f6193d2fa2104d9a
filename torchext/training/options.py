"""What a training is told: one dataclass, which the command line mirrors and checkpoints keep."""

from dataclasses import dataclass, field, fields

from .optimiser import OPTIMISERS
from .schedule import SCHEDULES


def _option(default, help, group, choices=None, least=None, most=None):
    facts = {"help": help, "group": group, "choices": choices, "least": least, "most": most}
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class Options:
    """Names and meanings are those of timm's training script wherever it has them."""

    model: str = _option("", "one of torchext.models.list_models()", None)

    data: str = _option("", "digits, or a folder of class folders", "data")
    img_size: int = _option(
        0, "pixels a side, 0: what the data or the weights want", "data", least=0
    )
    batch_size: int = _option(64, "images a step, of all processes together", "data", least=1)
    workers: int = _option(0, "processes that load and augment", "data", least=0)

    hflip: float = _option(0.0, "probability of the mirror image", "augmentation", least=0, most=1)
    crop: float = _option(
        0.0, "random crops of at least this part of it", "augmentation", least=0, most=1
    )
    rotate: float = _option(0.0, "up to so many degrees", "augmentation", least=0, most=180)
    shear: float = _option(0.0, "up to so many degrees", "augmentation", least=0, most=89)
    color_jitter: float = _option(
        0.0, "brightness, contrast, saturation", "augmentation", least=0, most=1
    )
    pca_color: float = _option(
        0.0, "standard deviation of AlexNet's colour shift", "augmentation", least=0
    )

    weights: str = _option("", "trained ones: a published name, DEFAULT, or a file", "transfer")
    freeze: bool = _option(
        False, "train the classifier alone, on features computed once", "transfer"
    )
    freeze_until: str = _option("", "train from this layer on, layer4", "transfer")
    train_last: int = _option(0, "train so many stages, and the classifier", "transfer", least=0)

    opt: str = _option("adamw", "", "optimiser", choices=tuple(OPTIMISERS))
    lr: float = _option(1e-3, "the learning rate", "optimiser", least=0)
    momentum: float = _option(0.9, "of momentum, nesterov, rmsprop", "optimiser", least=0, most=1)
    weight_decay: float = _option(0.0, "the optimiser's own", "optimiser", least=0)
    l1: float = _option(0.0, "adds l1 * sum |w| to the loss", "optimiser", least=0)
    l2: float = _option(
        0.0, "adds l2/2 * sum w^2; with --l1, the elastic net", "optimiser", least=0
    )
    clip_grad: float = _option(0.0, "the largest gradient, 0: any", "optimiser", least=0)
    clip_mode: str = _option(
        "norm", "of all together, or of each value", "optimiser", choices=("norm", "value")
    )

    epochs: int = _option(20, "how often to see the data", "schedule", least=1)
    sched: str = _option("cosine", "", "schedule", choices=tuple(SCHEDULES))
    warmup_epochs: float = _option(0.0, "of a rate that rises from 0", "schedule", least=0)
    min_lr: float = _option(
        0.0, "where cosine and linear end, and the others stop", "schedule", least=0
    )
    decay_epochs: float = _option(10.0, "step: so often ...", "schedule", least=0)
    decay_rate: float = _option(0.1, "... times this; plateau too", "schedule", least=0, most=1)
    patience_epochs: int = _option(5, "plateau: so many without a better one", "schedule", least=0)
    early_stop: int = _option(
        0, "stop after so many without a better one, 0: never", "schedule", least=0
    )
    monitor: str = _option(
        "accuracy", "what is better, on validation images", "schedule", choices=("accuracy", "loss")
    )

    seed: int = _option(0, "of weights, order, augmentation and dropout", "run", least=0)
    device: str = _option("", "cpu, cuda, cuda:1; default: a GPU if there is one", "run")
    accelerate: bool = _option(False, "put torchext's kernels under the model's layers", "run")
    output: str = _option("", "folder of last.pt and best.pt", "run")
    resume: bool = _option(False, "go on from the output folder's last.pt, if there is one", "run")
    save_every: int = _option(0, "also save after so many steps", "run", least=0)

    def __post_init__(self):
        for option in fields(self):
            value, facts = getattr(self, option.name), option.metadata
            choices, least, most = facts["choices"], facts["least"], facts["most"]
            if choices and value not in choices:
                raise ValueError(
                    f"{option.name}: got {value!r}, expected one of {', '.join(choices)}"
                )
            low = least is not None and not value >= least  # so that nan is refused too
            high = most is not None and not value <= most
            if low or high:
                limit = f"at least {least}" if low else f"at most {most}"
                raise ValueError(f"{option.name}: got {value}, expected {limit}")
        for name in ("lr", "decay_epochs"):
            if not getattr(self, name):
                raise ValueError(f"{name}: got 0.0, expected more")
        if (self.resume or self.save_every) and not self.output:
            raise ValueError("output: got none, expected the folder of what is saved and resumed")
        if sum((self.freeze, bool(self.freeze_until), bool(self.train_last))) > 1:
            raise ValueError("freeze, freeze_until, train_last: got several, expected one")
        if self.freeze and any(getattr(self, o.name) for o in AUGMENTATION):
            names = ", ".join(o.name for o in AUGMENTATION)
            raise ValueError(f"freeze: features are computed once, expected none of {names}")


AUGMENTATION = [o for o in fields(Options) if o.metadata["group"] == "augmentation"]
