"""ResNets without shortcuts: what deep networks were before (He et al., 2015)."""

from ._registry import register
from .resnet import BasicBlock, ResNet


class PlainBlock(BasicBlock):
    residual_end = None

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


@register()
def plain18(**kwargs):
    return ResNet(PlainBlock, (2, 2, 2, 2), shortcut=None, **kwargs)


@register()
def plain34(**kwargs):
    return ResNet(PlainBlock, (3, 4, 6, 3), shortcut=None, **kwargs)
