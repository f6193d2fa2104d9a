"""Optimisers by name, and what is done to gradients: penalties and clipping."""

import torch
from torch import optim

OPTIMISERS = {  # of (parameters, learning rate, options)
    "sgd": lambda p, lr, o: optim.SGD(p, lr),
    "momentum": lambda p, lr, o: optim.SGD(p, lr, momentum=o.momentum),
    "nesterov": lambda p, lr, o: optim.SGD(p, lr, momentum=o.momentum, nesterov=True),
    "adagrad": lambda p, lr, o: optim.Adagrad(p, lr),
    "rmsprop": lambda p, lr, o: optim.RMSprop(p, lr, momentum=o.momentum),
    "adam": lambda p, lr, o: optim.Adam(p, lr),
    "adamw": lambda p, lr, o: optim.AdamW(p, lr),
}


def shrinkable(model):
    """The parameters that decay and penalties hold small: no biases, no norms' scales."""
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and p.ndim > 1 and name not in spared
    ]


def make_optimiser(model, options):
    decayed = shrinkable(model)
    ids = {id(p) for p in decayed}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("make_optimiser: model: got no parameter to train, all are frozen")
    return OPTIMISERS[options.opt](groups, options.lr, options)


def penalty(parameters, l1, l2):
    """l1 * sum |w| + l2/2 * sum w^2: the lasso, the ridge, and both the elastic net."""
    terms = [l1 * p.abs().sum() for p in parameters] if l1 else []
    terms += [l2 / 2 * p.square().sum() for p in parameters] if l2 else []
    return torch.stack(terms).sum() if terms else 0.0


def clip(parameters, options):
    if options.clip_grad and options.clip_mode == "norm":
        torch.nn.utils.clip_grad_norm_(parameters, options.clip_grad)
    elif options.clip_grad:
        torch.nn.utils.clip_grad_value_(parameters, options.clip_grad)
