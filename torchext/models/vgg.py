"""VGG of 11 to 19 layers, with and without batch norm, as in torchvision."""

from torch import nn

from .. import nn as tn
from ._registry import register
from ._sequential import SequentialModel, feature_info_of

# The 3 x 3 convolutions before each pooling, and their channels.
DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)


def make_layers(depths, batch_norm=False, in_chans=3):
    layers, channels = [], in_chans
    for depth, out in zip(depths, CHANNELS, strict=True):
        for _ in range(depth):
            layers.append(tn.Conv2d(channels, out, 3, padding=1))
            layers += [tn.BatchNorm2d(out)] if batch_norm else []
            layers.append(tn.ReLU(inplace=True))
            channels = out
        layers.append(tn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class VGG(SequentialModel):
    def __init__(self, features, num_classes=1000, init_weights=True, dropout=0.5):
        super().__init__()
        self.features = features
        self.avgpool = tn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            tn.Linear(512 * 7 * 7, 4096),
            tn.ReLU(True),
            tn.Dropout(dropout),
            tn.Linear(4096, 4096),
            tn.ReLU(True),
            tn.Dropout(dropout),
            tn.Linear(4096, num_classes),
        )
        self.feature_info = feature_info_of(features)
        self.num_classes, self.num_features = num_classes, 4096
        if init_weights:
            self.apply(_initialise)


def _initialise(module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def _vgg(depth, batch_norm=False, in_chans=3, **kwargs):
    return VGG(make_layers(DEPTHS[depth], batch_norm, in_chans), **kwargs)


@register(init_weights=False)
def vgg11(**kwargs):
    return _vgg(11, **kwargs)


@register(init_weights=False)
def vgg11_bn(**kwargs):
    return _vgg(11, batch_norm=True, **kwargs)


@register(init_weights=False)
def vgg13(**kwargs):
    return _vgg(13, **kwargs)


@register(init_weights=False)
def vgg13_bn(**kwargs):
    return _vgg(13, batch_norm=True, **kwargs)


@register(init_weights=False)
def vgg16(**kwargs):
    return _vgg(16, **kwargs)


@register(init_weights=False)
def vgg16_bn(**kwargs):
    return _vgg(16, batch_norm=True, **kwargs)


@register(init_weights=False)
def vgg19(**kwargs):
    return _vgg(19, **kwargs)


@register(init_weights=False)
def vgg19_bn(**kwargs):
    return _vgg(19, batch_norm=True, **kwargs)
