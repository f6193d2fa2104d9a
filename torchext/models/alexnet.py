"""AlexNet as torchvision has it: the one of "One weird trick for parallelizing CNNs" (2014)."""

from torch import nn

from .. import nn as tn
from ._registry import register
from ._sequential import SequentialModel, feature_info_of

# (channels, kernel, stride, padding, pooled afterwards)
CONVOLUTIONS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(SequentialModel):
    def __init__(self, num_classes=1000, dropout=0.5, in_chans=3):
        super().__init__()
        layers, channels = [], in_chans
        for out, kernel, stride, padding, pooled in CONVOLUTIONS:
            layers += [tn.Conv2d(channels, out, kernel, stride, padding), tn.ReLU(inplace=True)]
            layers += [tn.MaxPool2d(3, 2)] if pooled else []
            channels = out
        self.features = nn.Sequential(*layers)
        self.avgpool = tn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            tn.Dropout(dropout),
            tn.Linear(channels * 6 * 6, 4096),
            tn.ReLU(inplace=True),
            tn.Dropout(dropout),
            tn.Linear(4096, 4096),
            tn.ReLU(inplace=True),
            tn.Linear(4096, num_classes),
        )
        self.feature_info = feature_info_of(self.features)
        self.num_classes, self.num_features = num_classes, 4096


@register()
def alexnet(**kwargs):
    return AlexNet(**kwargs)
