"""Which models there are, under torchvision's functions."""

import fnmatch
import functools
import inspect
import warnings

from ._weights import WeightsEnum, enum_of, load

builders = {}


def register(weights_of=None, timms=False, **implied):
    """Makes a builder of a function that builds the bare model, and lists it under its name.

    weights_of  the model whose trained weights these are, for one that has several names
    timms       whether it is timm's: there `pretrained=True` is the usual way, not an old one
    implied     arguments that trained weights imply unless given: their values, or functions of
                the weights
    """

    def decorate(build):
        weights = enum_of(weights_of or build.__name__)

        @functools.wraps(build)
        def builder(*args, features_only=False, out_indices=None, replace_head=False, **kwargs):
            _name_positional(build.__name__, timms, args, kwargs)
            # Other classes than the weights' are an error for torchvision's argument, weights=, and
            # a new last layer for timm's, pretrained=.
            replace_head = replace_head or "pretrained" in kwargs
            chosen, progress = _chosen(build.__name__, weights, timms, kwargs)
            if chosen is not None:
                for argument, value in implied.items():
                    kwargs.setdefault(argument, value(chosen) if callable(value) else value)
                theirs = len(chosen.meta["categories"] or range(1000))
                classes = kwargs.setdefault("num_classes", theirs)
                if classes != theirs and not replace_head:
                    raise ValueError(
                        f"{build.__name__}: num_classes: got {classes}, expected the {theirs} of"
                        f" {chosen!r}; replace_head=True puts a new last layer on it"
                    )
            headless = not timms and kwargs.get("num_classes") == 0
            if headless:  # torchvision's networks don't know that: they would return no scores
                del kwargs["num_classes"]
            model = build(**kwargs)
            if headless:
                model.reset_classifier(0)
            if chosen is not None:
                load(model, chosen, progress, classes != theirs)
            return model.make_features_only(out_indices) if features_only else model

        builder.__signature__ = _signature(weights)
        builder.weights = weights
        builders[build.__name__] = builder
        return builder

    return decorate


def _signature(weights):
    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    return inspect.Signature(
        [
            keyword("weights", default=None, annotation=(weights or WeightsEnum) | None),
            keyword("progress", default=True, annotation=bool),
            inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]
    )


def _name_positional(name, timms, args, kwargs):
    """Puts what came by position among the others."""
    names = ("pretrained",) if timms else ("weights", "progress")
    if len(args) > len(names):
        raise TypeError(
            f"{name}: got {len(args)} positional arguments, expected at most {len(names)}"
        )
    if args and not timms:
        warnings.warn(
            f"{name}: weights and progress by position are deprecated: use their names",
            stacklevel=3,
        )
    kwargs.update(zip(names, args, strict=False))


def _chosen(name, weights, timms, kwargs):
    """(the trained weights asked for or None, whether to show the download's progress)"""
    asked, progress = kwargs.pop("weights", None), kwargs.pop("progress", True)
    if "pretrained" in kwargs or isinstance(asked, bool):
        asked = kwargs.pop("pretrained", asked)
        if not timms:
            warnings.warn(
                f"{name}: pretrained is deprecated: use weights='DEFAULT', or None", stacklevel=3
            )
    if asked is None or asked is False:
        return None, progress
    if weights is None:
        raise ValueError(f"{name}: weights: got {asked!r}, expected None: nobody publishes any")
    if asked is True:  # as in torchvision: what it meant before there were others
        asked = next(iter(weights))
    return weights.verify(asked), progress


def list_models(module=None, include=None, exclude=None):
    """The models' names; `include` and `exclude` are shell patterns, one or several."""
    include, exclude = (
        [patterns] if isinstance(patterns, str) else list(patterns or ())
        for patterns in (include, exclude)
    )
    names = (n for n, b in builders.items() if module is None or b.__module__ == module.__name__)
    return sorted(
        name
        for name in names
        if (not include or any(fnmatch.fnmatch(name, pattern) for pattern in include))
        and not any(fnmatch.fnmatch(name, pattern) for pattern in exclude)
    )


def get_model_builder(name):
    try:
        return builders[name.lower()]
    except KeyError:
        close = [n for n in builders if name.lower() in n]
        hint = f", one of {sorted(close)}" if close else "; list_models() names them"
        raise ValueError(f"get_model: name: got {name!r}, expected a model{hint}") from None


def get_model(name, **config):
    return get_model_builder(name)(**config)


def get_model_weights(name):
    """The WeightsEnum of a builder, or of its name."""
    builder = get_model_builder(name) if isinstance(name, str) else name
    if getattr(builder, "weights", None) is None:
        raise ValueError(f"get_model_weights: got {name!r}, for which nobody publishes any")
    return builder.weights


def get_weight(name):
    """A member of a WeightsEnum by its full name, "ResNet50_Weights.IMAGENET1K_V1"."""
    enum, _, member = name.partition(".")
    for builder in builders.values():
        if builder.weights is not None and builder.weights.__name__ == enum:
            return builder.weights.verify(member)
    raise ValueError(f"get_weight: got {name!r}, expected such as ResNet50_Weights.IMAGENET1K_V1")
