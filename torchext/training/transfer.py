"""Transfer learning: trained weights, and training only a part of a model."""

from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from .. import models
from .._model import own_input, skeleton
from . import processes
from .checkpoint import load_weights

FEATURES_BATCH = 64  # images, of which nothing is kept but their features


def wanted_images(options):
    """(size, mean, std) of the images that the model and its weights are for; None: any."""
    if options.weights and not Path(options.weights).is_file():
        published = models.get_model_weights(options.model).verify(options.weights).transforms()
        return published.crop_size, published.mean, published.std
    model = skeleton(options.model)
    if options.data == "digits":
        return getattr(model, "input_size", (None, None))[1], None, None
    return own_input(model, options.model)[1], None, None


def build(options, data):
    """The model of the options, for the data's classes and channels."""
    shape = {"num_classes": len(data.classes), "in_chans": data.channels}
    if not options.weights:
        return models.get_model(options.model, **shape)
    if not Path(options.weights).is_file():
        published = {"weights": options.weights, "replace_head": True}
        return models.get_model(options.model, num_classes=len(data.classes), **published)
    model = models.get_model(options.model, **shape)
    load_body(model, load_weights(options.weights), options.weights)
    return model


def load_body(model, state, source):
    """A state dict, but for a classifier of other classes: the model keeps its new one."""
    own = model.state_dict()
    heads = tuple(f"{name}." for name in _names(model.classifier_name))
    other = {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape}
    state = {key: v for key, v in state.items() if not (key in other and key.startswith(heads))}
    wrong = {key for key in own.keys() ^ state.keys() if not key.startswith(heads)}
    wrong |= other & state.keys()
    if wrong:
        some = ", ".join(sorted(wrong)[:3])
        raise ValueError(f"weights: {source}: {len(wrong)} tensors missing or others, as {some}")
    model.load_state_dict(state, strict=False)


def _names(names):
    return (names,) if isinstance(names, str) else names


def freeze(model, options):
    """Keeps from training what the options say."""
    if options.freeze:
        _train_from(model, _only_classifier(model))
    elif options.freeze_until:
        _train_from(model, options.freeze_until)
    elif options.train_last:
        stages = [stage["module"] for stage in model.feature_info]
        if options.train_last > len(stages):
            raise ValueError(
                f"train_last: got {options.train_last}, expected at most {len(stages)}, the stages"
            )
        _train_from(model, stages[-options.train_last])


def _only_classifier(model):
    if not isinstance(model.classifier_name, str):
        raise ValueError(
            f"freeze: expected a model with one classifier, got {model.classifier_name}"
        )
    return model.classifier_name


def _train_from(model, name):
    """Freezes what was registered before the module of this name."""
    before = True
    for key, parameter in model.named_parameters():
        before = before and not f"{key}.".startswith(f"{name}.")
        parameter.requires_grad_(not before)
    if before:
        known = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"freeze_until: got {name!r}, expected a layer with weights, such as {known}"
        )


def train_mode(net):
    """Training mode, except for frozen layers: their running statistics stay as they are."""
    net.train()
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            module.eval()


@torch.no_grad()
def features(model, data, options):
    """`data` as the classifier gets it: each image once through the rest of the model."""
    device = processes.device(options.device)
    model.to(device, memory_format=torch.channels_last).eval()

    def through(dataset):
        inputs, labels = [], []
        loader = DataLoader(dataset, FEATURES_BATCH, num_workers=options.workers)
        for images, some_labels in loader:
            images = images.to(device)
            inputs.append(model.forward_head(model.forward_features(images), pre_logits=True))
            labels.append(some_labels)
            if len(inputs) == 1:
                _check_classifier(model, images, inputs[0])
        return TensorDataset(torch.cat(inputs).cpu(), torch.cat(labels))

    return replace(data, train=through(data.train), val=through(data.val))


def _check_classifier(model, images, inputs):
    """That the classifier is all that is done to features."""
    scores, expected = model.get_classifier()(inputs), model(images)
    if scores.shape != expected.shape or not torch.allclose(scores, expected, 1e-3, 1e-4):
        name = model.classifier_name
        raise ValueError(f"freeze: model: expected one that ends with its classifier, {name}")
