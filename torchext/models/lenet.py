"""LeNet-5 (LeCun et al., 1998), in the form that is common today."""

from torch import nn

from .. import nn as tn
from ._initialise import initialise
from ._model import Model
from ._registry import register


def _stage(channels, out):
    return nn.Sequential(tn.Conv2d(channels, out, 5), tn.Tanh(), tn.AvgPool2d(2))


class LeNet5(Model):
    """For images of 32 x 32.

    Three things were different in 1998: each pooling had a factor and a bias to learn and a
    squashing of its own, each map of the second convolution saw some of the first's only, and the
    scores were distances from fixed bitmaps of the digits (radial basis functions), not a layer's.
    """

    classifier_name = "fc3"

    def __init__(self, num_classes=10, in_chans=1):
        super().__init__()
        self.input_size = in_chans, 32, 32
        self.num_classes, self.num_features = num_classes, 84
        self.conv1 = _stage(in_chans, 6)
        self.conv2 = _stage(6, 16)
        self.feature_info = [
            {"num_chs": 6, "reduction": 2, "module": "conv1"},
            {"num_chs": 16, "reduction": 4, "module": "conv2"},
        ]
        self.flatten = nn.Flatten()
        self.fc1 = nn.Sequential(tn.Linear(16 * 5 * 5, 120), tn.Tanh())
        self.fc2 = nn.Sequential(tn.Linear(120, 84), tn.Tanh())
        self.fc3 = tn.Linear(84, num_classes)
        initialise(self, "xavier")

    def stages(self, x):
        for stage in (self.conv1, self.conv2):
            x = self.through(stage, x)
            yield x

    def forward_head(self, x, pre_logits=False):
        x = self.fc2(self.fc1(self.flatten(x)))
        return x if pre_logits else self.fc3(x)


@register()
def lenet5(**kwargs):
    return LeNet5(**kwargs)
