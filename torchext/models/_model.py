"""What every classifier offers beside its forward: the methods that timm's users expect."""

import re

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..nn import Linear


class Model(nn.Module):
    """A classifier of images. A family says how it is made of its parts:

    stages(x)        yields what one stage after another returns
    as_map(x)        makes a feature map [B, C, H, W] of that, if it is none
    finish(x)        makes forward_features' result of what the last one returns, if it isn't
    forward_head(x)  makes scores of it; with pre_logits, what the last layer gets
    classifier_name  where that last layer is, or where they are, "fc"
    feature_info     for each map: its `num_chs`, its `reduction` and the `module` that makes it
    """

    classifier_name = "fc"
    global_pools = ("avg",)  # what reset_classifier takes
    grad_checkpointing = False
    out_indices = None  # of the maps that forward returns instead of scores

    def stages(self, x):
        raise NotImplementedError

    def as_map(self, x):
        return x

    def finish(self, x):
        return x

    def forward_head(self, x, pre_logits=False):
        raise NotImplementedError

    def forward_features(self, x):
        *_, x = self.stages(x)
        return self.finish(x)

    def forward(self, x):
        if self.out_indices is not None:
            return self.forward_intermediates(x, self.out_indices, intermediates_only=True)
        return self.forward_head(self.forward_features(x))

    def through(self, module, x):
        """module(x), keeping nothing of what lies within for the gradient if so asked."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(module, x, use_reentrant=False)
        return module(x)

    def forward_intermediates(self, x, indices=None, intermediates_only=False):
        """(forward_features(x), the maps of these indices; the last n for an int, all for None)"""
        wanted = self._indices(indices)
        maps = []
        for i, x in enumerate(self.stages(x)):  # noqa: B020 - stages has its own x
            if i in wanted:
                maps.append(self.as_map(x))
            if intermediates_only and i == max(wanted, default=-1):
                break
        return maps if intermediates_only else (self.finish(x), maps)

    def _indices(self, indices):
        count = len(self.feature_info)
        if indices is None:
            indices = count
        if isinstance(indices, int):
            wanted = tuple(range(count - indices, count))
        else:
            wanted = tuple(i + count if i < 0 else i for i in indices)
        if any(not 0 <= i < count for i in wanted):
            raise IndexError(f"out_indices: got {indices}, expected some of {count} maps")
        return wanted

    def make_features_only(self, out_indices=None):
        """Turns this into a model that returns feature maps, as timm's features_only."""
        self.out_indices = self._indices(out_indices)
        info = self.feature_info[: max(self.out_indices, default=-1) + 1]
        self.feature_info = FeatureInfo(info, self.out_indices)
        self.num_classes = 0
        if info:
            _leave_out_behind(self, info[-1]["module"])
        return self

    def classifier_names(self):
        names = self.classifier_name
        return (names,) if isinstance(names, str) else names

    def get_classifier(self):
        layers = tuple(self.get_submodule(name) for name in self.classifier_names())
        return layers[0] if isinstance(self.classifier_name, str) else layers

    def reset_classifier(self, num_classes, global_pool=None):
        """A new last layer for so many classes; for 0, none: forward returns what it would get."""
        if global_pool is not None:
            check_pool("reset_classifier", global_pool, self.global_pools)
            self.set_global_pool(global_pool)
        for name in self.classifier_names():
            where, _, last = name.rpartition(".")
            reference = next(p for p in self.parameters())
            layer = nn.Identity()
            if num_classes > 0:
                like = {"device": reference.device, "dtype": reference.dtype}
                layer = Linear(self.head_hidden_size, num_classes, **like)
            setattr(self.get_submodule(where), last, layer.train(self.training))
        self.num_classes = num_classes

    @property
    def head_hidden_size(self):
        """How many numbers the last layer gets."""
        return self.num_features

    def set_global_pool(self, global_pool):
        """For families that have a choice of them."""

    def set_grad_checkpointing(self, enable=True):
        self.grad_checkpointing = enable

    def no_weight_decay(self):
        return set()

    def group_matcher(self, coarse=False):
        """Regular expressions for which parameters are the stem's and which the stages'."""
        stem, *blocks = (rf"^{re.escape(info['module'])}\." for info in self.feature_info)
        return {"stem": stem, "blocks": [(block, (i,)) for i, block in enumerate(blocks)]}


def check_pool(function, got, expected):
    if got not in expected:
        raise ValueError(f"{function}: global_pool: got {got!r}, expected one of {expected}")


def _leave_out_behind(module, path):
    """Takes the modules with parameters out of this one that come after the one of this path."""
    name, _, rest = path.partition(".")
    children = list(module.named_children())
    place = [child for child, _ in children].index(name)
    for later, child in children[place + 1 :]:
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            delattr(module, later)
        elif any(True for _ in child.parameters()):
            setattr(module, later, nn.Identity().train(module.training))
    if rest:
        _leave_out_behind(children[place][1], rest)


class FeatureInfo:
    """What the maps of a features_only model are, as in timm."""

    def __init__(self, info, out_indices):
        self.info, self.out_indices = info, out_indices

    def __len__(self):
        return len(self.info)

    def __getitem__(self, i):
        return self.info[i]

    def _of(self, key):
        return [self.info[i][key] for i in self.out_indices]

    def channels(self):
        return self._of("num_chs")

    def reduction(self):
        return self._of("reduction")

    def module_name(self):
        return self._of("module")

    def get_dicts(self):
        return [self.info[i] for i in self.out_indices]
