"""GoogLeNet as torchvision has it: with batch norm, and 3 x 3 filters where the paper has 5 x 5."""

from collections import namedtuple

import torch
from torch import nn

from .. import nn as tn
from ..nn import functional as F
from ._model import Model
from ._preprocess import MEAN, STD
from ._registry import register

# Of stages 3 to 5 the modules' channels: 1 x 1; reduced, 3 x 3; reduced, "5 x 5"; projected pool.
INCEPTIONS = {
    3: ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    4: (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    5: ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
}
POOLS = {3: 3, 4: 2}  # the kernels after these stages

GoogLeNetOutputs = namedtuple("GoogLeNetOutputs", ["logits", "aux_logits2", "aux_logits1"])


class BasicConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, **kwargs):
        super().__init__()
        self.conv = tn.Conv2d(in_channels, out_channels, bias=False, **kwargs)
        self.bn = tn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    def __init__(
        self,
        in_channels,
        ch1x1,
        ch3x3red,
        ch3x3,
        ch5x5red,
        ch5x5,
        pool_proj,
        conv_block=BasicConv2d,
    ):
        super().__init__()
        self.branch1 = conv_block(in_channels, ch1x1, kernel_size=1)
        self.branch2 = nn.Sequential(
            conv_block(in_channels, ch3x3red, kernel_size=1),
            conv_block(ch3x3red, ch3x3, kernel_size=3, padding=1),
        )
        self.branch3 = nn.Sequential(
            conv_block(in_channels, ch5x5red, kernel_size=1),
            conv_block(ch5x5red, ch5x5, kernel_size=3, padding=1),
        )
        self.branch4 = nn.Sequential(
            tn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True),
            conv_block(in_channels, pool_proj, kernel_size=1),
        )

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionAux(nn.Module):
    """A classifier of what is known half way, whose loss helps the layers before it to learn."""

    def __init__(self, in_channels, num_classes, conv_block=BasicConv2d, dropout=0.7):
        super().__init__()
        self.conv = conv_block(in_channels, 128, kernel_size=1)
        self.fc1 = tn.Linear(128 * 4 * 4, 1024)
        self.fc2 = tn.Linear(1024, num_classes)
        self.dropout = tn.Dropout(dropout)

    def forward(self, x):
        x = self.conv(F.adaptive_avg_pool2d(x, (4, 4)))
        x = F.relu(self.fc1(torch.flatten(x, 1)), inplace=True)
        return self.fc2(self.dropout(x))


class GoogLeNet(Model):
    """With aux_logits it returns GoogLeNetOutputs in training mode.

    transform_input  the trained weights' own scale: images come in normalised as for other models
    init_weights     None is True; torchvision warns that its default will change, ours will not
    """

    optional_parts = ("aux1.", "aux2.")

    def __init__(
        self,
        num_classes=1000,
        aux_logits=True,
        transform_input=False,
        init_weights=None,
        blocks=None,
        dropout=0.2,
        dropout_aux=0.7,
        in_chans=3,
    ):
        super().__init__()
        blocks = blocks or (BasicConv2d, Inception, InceptionAux)
        if len(blocks) != 3:
            raise ValueError(f"GoogLeNet: blocks: got {len(blocks)} of them, expected 3")
        if transform_input and in_chans != 3:
            raise ValueError(f"GoogLeNet: in_chans: got {in_chans}, transform_input expects 3")
        conv, inception, classifier = blocks
        self.aux_logits, self.transform_input = aux_logits, transform_input
        self.conv1 = conv(in_chans, 64, kernel_size=7, stride=2, padding=3)
        self.maxpool1 = tn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = conv(64, 64, kernel_size=1)
        self.conv3 = conv(64, 192, kernel_size=3, padding=1)
        self.maxpool2 = tn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.feature_info = [
            {"num_chs": 64, "reduction": 2, "module": "conv1"},
            {"num_chs": 192, "reduction": 4, "module": "conv3"},
        ]
        channels = 192
        for stage, modules in INCEPTIONS.items():
            for letter, widths in zip("abcde", modules, strict=False):
                name = f"inception{stage}{letter}"
                self.add_module(name, inception(channels, *widths))
                channels = sum(widths[i] for i in (0, 2, 4, 5))
            info = {"num_chs": channels, "reduction": 2**stage, "module": name}
            self.feature_info.append(info)
            if stage in POOLS:
                pool = tn.MaxPool2d(POOLS[stage], stride=2, ceil_mode=True)
                self.add_module(f"maxpool{stage}", pool)
        self.aux1 = classifier(512, num_classes, dropout=dropout_aux) if aux_logits else None
        self.aux2 = classifier(528, num_classes, dropout=dropout_aux) if aux_logits else None
        self.avgpool = tn.AdaptiveAvgPool2d((1, 1))
        self.dropout = tn.Dropout(dropout)
        self.num_classes, self.num_features = num_classes, channels
        self.fc = tn.Linear(channels, num_classes)
        if init_weights is None or init_weights:
            self.apply(_initialise)

    def _transformed(self, x):
        if not self.transform_input:
            return x
        channels = [
            torch.unsqueeze(x[:, i], 1) * (std / 0.5) + (mean - 0.5) / 0.5
            for i, (mean, std) in enumerate(zip(MEAN, STD, strict=True))
        ]
        return torch.cat(channels, 1)

    def stages(self, x, scores=None):
        """The auxiliary classifiers' scores are appended to `scores`."""
        x = self.through(self.conv1, self._transformed(x))
        yield x
        x = self.through(self.conv3, self.through(self.conv2, self.maxpool1(x)))
        yield x
        x = self.through(self.inception3a, self.maxpool2(x))
        x = self.through(self.inception3b, x)
        yield x
        x = self.through(self.inception4a, self.maxpool3(x))
        if scores is not None:
            scores.append(self.aux1(x))
        x = self.through(self.inception4b, x)
        x = self.through(self.inception4c, x)
        x = self.through(self.inception4d, x)
        if scores is not None:
            scores.append(self.aux2(x))
        x = self.through(self.inception4e, x)
        yield x
        x = self.through(self.inception5a, self.maxpool4(x))
        x = self.through(self.inception5b, x)
        yield x

    def forward(self, x):
        if not (self.training and self.aux_logits):
            return super().forward(x)
        scores = []
        *_, x = self.stages(x, scores)
        aux1, aux2 = scores
        return GoogLeNetOutputs(self.forward_head(x), aux2, aux1)

    def forward_head(self, x, pre_logits=False):
        x = self.dropout(torch.flatten(self.avgpool(x), 1))
        return x if pre_logits else self.fc(x)

    def make_features_only(self, out_indices=None):
        self.aux_logits = False
        return super().make_features_only(out_indices)

    def group_matcher(self, coarse=False):
        modules = [name for name, _ in self.named_children() if name.startswith("inception")]
        return {"stem": r"^conv", "blocks": [(rf"^{n}\.", (i,)) for i, n in enumerate(modules)]}

    def classifier_names(self):
        return ("fc", "aux1.fc2", "aux2.fc2") if self.aux_logits else ("fc",)


def _initialise(module):
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, mean=0.0, std=0.01, a=-2, b=2)


@register(aux_logits=False, transform_input=True, init_weights=False)
def googlenet(**kwargs):
    """With trained weights aux_logits is False by default: those of these layers are untrained."""
    return GoogLeNet(**kwargs)
