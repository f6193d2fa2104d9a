"""AlexNet as it was published (Krizhevsky et al., 2012) and network in network (Lin et al., 2013).

torchvision's AlexNet is a later, smaller one: `alexnet`.
"""

from functools import partial

from torch import nn

from .. import nn as tn
from ._initialise import initialise
from ._model import Model
from ._registry import register


def _normed_and_pooled():
    # torch divides alpha by the number of channels, the paper does not.
    norm = tn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    return tn.ReLU(inplace=True), norm, tn.MaxPool2d(3, stride=2)


class AlexNetOriginal(Model):
    """For images of 227 x 227.

    towers  2: the second, fourth and fifth convolution see only their half of the channels, as on
            the paper's two GPUs; 1: all of them
    """

    classifier_name = "fc8"

    def __init__(self, num_classes=1000, in_chans=3, towers=2, dropout=0.5):
        super().__init__()
        if towers not in (1, 2):
            raise ValueError(f"alexnet_original: towers: got {towers!r}, expected 1 or 2")
        self.input_size = in_chans, 227, 227
        self.num_classes, self.num_features = num_classes, 4096
        by_towers = partial(tn.Conv2d, groups=towers)
        self.conv1 = nn.Sequential(tn.Conv2d(in_chans, 96, 11, stride=4), *_normed_and_pooled())
        self.conv2 = nn.Sequential(by_towers(96, 256, 5, padding=2), *_normed_and_pooled())
        self.conv3 = nn.Sequential(tn.Conv2d(256, 384, 3, padding=1), tn.ReLU(inplace=True))
        self.conv4 = nn.Sequential(by_towers(384, 384, 3, padding=1), tn.ReLU(inplace=True))
        conv5, pool5 = by_towers(384, 256, 3, padding=1), tn.MaxPool2d(3, stride=2)
        self.conv5 = nn.Sequential(conv5, tn.ReLU(inplace=True), pool5)
        maps = (96, 8), (256, 16), (384, 16), (384, 16), (256, 32)
        self.feature_info = [
            {"num_chs": channels, "reduction": reduction, "module": f"conv{i}"}
            for i, (channels, reduction) in enumerate(maps, 1)
        ]
        self.flatten = nn.Flatten()
        self.fc6, self.fc7 = (
            nn.Sequential(tn.Linear(inputs, 4096), tn.ReLU(inplace=True), tn.Dropout(dropout))
            for inputs in (256 * 6 * 6, 4096)
        )
        self.fc8 = tn.Linear(4096, num_classes)
        initialise(self, "small_random")
        for stage in (self.conv2, self.conv4, self.conv5, self.fc6, self.fc7):
            nn.init.ones_(stage[0].bias)  # the paper's: each relu first lets its input pass

    def stages(self, x):
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = self.through(stage, x)
            yield x

    def forward_head(self, x, pre_logits=False):
        x = self.fc7(self.fc6(self.flatten(x)))
        return x if pre_logits else self.fc8(x)


@register()
def alexnet_original(**kwargs):
    return AlexNetOriginal(**kwargs)


def _mlpconv(channels, widths, kernel):
    """A convolution and, at every pixel, a small perceptron: convolutions of 1 x 1."""
    layers = []
    for i, width in enumerate(widths):
        size = 1 if i else kernel
        layers += [tn.Conv2d(channels, width, size, padding=size // 2), tn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers)


class NiN(Model):
    """The paper's network for CIFAR-10; the average of a class's own map is the class's score."""

    classifier_name = "classifier"

    def __init__(self, num_classes=10, in_chans=3, dropout=0.5):
        super().__init__()
        self.input_size = in_chans, 32, 32
        self.num_classes, self.num_features = num_classes, 192
        self.block1 = _mlpconv(in_chans, (192, 160, 96), 5)
        self.pool1 = nn.Sequential(tn.MaxPool2d(3, 2, ceil_mode=True), tn.Dropout(dropout))
        self.block2 = _mlpconv(96, (192, 192, 192), 5)
        self.pool2 = nn.Sequential(tn.AvgPool2d(3, 2, ceil_mode=True), tn.Dropout(dropout))
        self.block3 = _mlpconv(192, (192, 192), 3)
        self.classifier = tn.Linear(192, num_classes)  # the 1 x 1 convolution that ends block 3
        self.relu = tn.ReLU(inplace=True)
        self.feature_info = [
            {"num_chs": 96, "reduction": 1, "module": "block1"},
            {"num_chs": 192, "reduction": 2, "module": "block2"},
            {"num_chs": 192, "reduction": 4, "module": "block3"},
        ]
        initialise(self, "he")

    def stages(self, x):
        x = self.through(self.block1, x)
        yield x
        x = self.through(self.block2, self.pool1(x))
        yield x
        x = self.through(self.block3, self.pool2(x))
        yield x

    def forward_head(self, x, pre_logits=False):
        x = x.permute(0, 2, 3, 1)  # [N, H, W, C]: a layer at every pixel
        if not pre_logits:
            x = self.relu(self.classifier(x))
        return x.mean((1, 2))


@register()
def nin(**kwargs):
    return NiN(**kwargs)
