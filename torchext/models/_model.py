"""What every classifier offers beside its forward: the methods that timm's users expect."""

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
        self.reset_classifier(0)
        self.out_indices = self._indices(out_indices)
        self.feature_info = FeatureInfo(self.feature_info, self.out_indices)
        return self

    def _classifier_names(self):
        names = self.classifier_name
        return (names,) if isinstance(names, str) else names

    def get_classifier(self):
        layers = tuple(self.get_submodule(name) for name in self._classifier_names())
        return layers[0] if isinstance(self.classifier_name, str) else layers

    def reset_classifier(self, num_classes, global_pool=None):
        """A new last layer for so many classes; for 0, none: forward returns what it would get."""
        if global_pool is not None and global_pool != self.global_pool:
            raise ValueError(
                f"reset_classifier: global_pool: got {global_pool!r}, expected {self.global_pool!r}"
            )
        for name in self._classifier_names():
            where, _, last = name.rpartition(".")
            reference = next(p for p in self.parameters())
            layer = nn.Identity()
            if num_classes > 0:
                like = {"device": reference.device, "dtype": reference.dtype}
                layer = Linear(self.num_features, num_classes, **like)
            setattr(self.get_submodule(where), last, layer.train(self.training))
        self.num_classes = num_classes

    global_pool = "avg"

    def set_grad_checkpointing(self, enable=True):
        self.grad_checkpointing = enable

    def no_weight_decay(self):
        return set()

    def group_matcher(self, coarse=False):
        """Regular expressions for which parameters are the stem's and which the stages'."""
        stem = self.feature_info[0]["module"].partition(".")[0]
        return {
            "stem": rf"^{stem}",
            "blocks": [(rf"^{i['module']}", None) for i in self.feature_info],
        }


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
