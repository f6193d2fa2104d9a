"""Perceptrons of many layers and of one; they flatten whatever they get."""

from torch import nn

from .. import nn as tn
from ._initialise import initialise
from ._model import Model
from ._registry import register

ACTIVATIONS = {
    "relu": tn.ReLU,
    "leaky_relu": tn.LeakyReLU,
    "elu": tn.ELU,
    "gelu": tn.GELU,
    "silu": tn.SiLU,
    "tanh": tn.Tanh,
    "sigmoid": tn.Sigmoid,
}


class MLP(Model):
    """Layers of `hidden` units each, and one of scores."""

    classifier_name = "classifier"

    def __init__(self, in_features=28 * 28, hidden=(), num_classes=10, activation="relu"):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"mlp: activation: got {activation!r}, expected one of {', '.join(ACTIVATIONS)}"
            )
        self.input_size = (in_features,)
        *widths, self.num_features = in_features, *hidden
        self.num_classes = num_classes
        self.flatten = nn.Flatten()
        self.hidden = nn.ModuleList(
            nn.Sequential(tn.Linear(inputs, outputs), ACTIVATIONS[activation]())
            for inputs, outputs in zip(widths, hidden, strict=True)
        )
        self.classifier = tn.Linear(self.num_features, num_classes)
        names = ["flatten", *(f"hidden.{i}" for i in range(len(hidden)))]
        self.feature_info = [  # of vectors, which no layer makes smaller images of
            {"num_chs": width, "reduction": 1, "module": name}
            for width, name in zip((in_features, *hidden), names, strict=True)
        ]
        initialise(self, "xavier" if activation in ("tanh", "sigmoid") else "he")

    def stages(self, x):
        x = self.flatten(x)
        yield x
        for layer in self.hidden:
            x = self.through(layer, x)
            yield x

    def forward_head(self, x, pre_logits=False):
        return x if pre_logits else self.classifier(x)


@register()
def mlp(**kwargs):
    return MLP(**{"hidden": (256, 128), **kwargs})


@register()
def slp(**kwargs):
    """One layer of perceptrons, a class each."""
    return MLP(**kwargs)


@register()
def logistic_regression(**kwargs):
    """The same layer, for cross-entropy: from zero, since that loss has but one minimum."""
    return initialise(MLP(**kwargs), "zero")
