"""ResNet (v1.5: a bottleneck strides in its 3x3), ResNeXt and wide ResNets, as in torchvision."""

import torch
from torch import nn

from .. import nn as tn
from ._initialise import initialise
from ._model import Model
from ._registry import register


def _conv(channels, out, kernel, stride=1, groups=1, dilation=1):
    padding = dilation if kernel == 3 else 0
    return tn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=False)


class BasicBlock(nn.Module):
    expansion = 1
    residual_end = "bn2"

    def __init__(
        self,
        channels,
        width,
        stride=1,
        downsample=None,
        groups=1,
        base_width=64,
        dilation=1,
        norm_layer=tn.BatchNorm2d,
    ):
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError("BasicBlock only supports groups=1 and base_width=64")
        if dilation > 1:
            raise NotImplementedError("Dilation > 1 not supported in BasicBlock")
        self.conv1 = _conv(channels, width, 3, stride)
        self.bn1 = norm_layer(width)
        self.relu = tn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = norm_layer(width)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x):
        identity = x

        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))

        if self.downsample is not None:
            identity = self.downsample(x)

        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4
    residual_end = "bn3"

    def __init__(
        self,
        channels,
        width,
        stride=1,
        downsample=None,
        groups=1,
        base_width=64,
        dilation=1,
        norm_layer=tn.BatchNorm2d,
    ):
        super().__init__()
        inner = int(width * (base_width / 64.0)) * groups
        self.conv1 = _conv(channels, inner, 1)
        self.bn1 = norm_layer(inner)
        self.conv2 = _conv(inner, inner, 3, stride, groups, dilation)
        self.bn2 = norm_layer(inner)
        self.conv3 = _conv(inner, width * self.expansion, 1)
        self.bn3 = norm_layer(width * self.expansion)
        self.relu = tn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x):
        identity = x

        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))

        if self.downsample is not None:
            identity = self.downsample(x)

        out += identity
        return self.relu(out)


class ZeroPadding(nn.Module):
    """A shortcut without parameters: every stride-th pixel, and zeros for the new channels."""

    def __init__(self, more, stride):
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.more))

    def extra_repr(self):
        return f"more={self.more}, stride={self.stride}"


class ResNet(Model):
    """shortcut  how a block's input reaches its output, by the paper's names of the options:
    "A" as it is, with zeros for new channels; "B" projected where its size changes; "C" projected
    everywhere; None not at all, for blocks that don't add it
    """

    classifier_name = "fc"

    def __init__(
        self,
        block,
        layers,
        num_classes=1000,
        zero_init_residual=False,
        groups=1,
        width_per_group=64,
        replace_stride_with_dilation=None,
        norm_layer=None,
        in_chans=3,
        shortcut="B",
    ):
        super().__init__()
        if shortcut not in ("A", "B", "C", None):
            raise ValueError(f"ResNet: shortcut: got {shortcut!r}, expected 'A', 'B', 'C' or None")
        self.shortcut = shortcut
        dilate = replace_stride_with_dilation or (False, False, False)
        if len(dilate) != 3:
            raise ValueError(
                "replace_stride_with_dilation should be None or a 3-element tuple,"
                f" got {replace_stride_with_dilation}"
            )
        self._norm_layer = norm_layer = norm_layer or tn.BatchNorm2d
        self.inplanes, self.dilation = 64, 1
        self.groups, self.base_width = groups, width_per_group
        self.conv1 = tn.Conv2d(in_chans, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(64)
        self.relu = tn.ReLU(inplace=True)
        self.maxpool = tn.MaxPool2d(3, stride=2, padding=1)
        self.feature_info = [{"num_chs": 64, "reduction": 2, "module": "relu"}]
        reduction = 4
        for i, (width, blocks) in enumerate(zip((64, 128, 256, 512), layers, strict=True)):
            stride = 1 if i == 0 else 2
            dilated = i > 0 and dilate[i - 1]
            reduction *= 1 if dilated else stride
            name = f"layer{i + 1}"
            self.add_module(name, self._make_layer(block, width, blocks, stride, dilated))
            self.feature_info.append(
                {"num_chs": width * block.expansion, "reduction": reduction, "module": name}
            )
        self.avgpool = tn.AdaptiveAvgPool2d((1, 1))
        self.num_classes, self.num_features = num_classes, 512 * block.expansion
        self.fc = tn.Linear(self.num_features, num_classes)
        self._initialise(zero_init_residual)

    def _make_layer(self, block, width, blocks, stride, dilated):
        outer_dilation = self.dilation
        if dilated:
            self.dilation, stride = self.dilation * stride, 1
        channels, out = self.inplanes, width * block.expansion
        downsample = self._make_shortcut(channels, out, stride)
        rest = (self.groups, self.base_width)
        first = block(channels, width, stride, downsample, *rest, outer_dilation, self._norm_layer)
        self.inplanes = out
        others = (
            block(
                *(out, width, 1, self._make_shortcut(out, out, 1)),
                *(*rest, self.dilation, self._norm_layer),
            )
            for _ in range(1, blocks)
        )
        return nn.Sequential(first, *others)

    def _make_shortcut(self, channels, out, stride):
        """None for the input as it is."""
        changes = stride != 1 or channels != out
        if self.shortcut == "C" or (self.shortcut == "B" and changes):
            return nn.Sequential(_conv(channels, out, 1, stride), self._norm_layer(out))
        return ZeroPadding(out - channels, stride) if self.shortcut == "A" and changes else None

    def _initialise(self, zero_init_residual):
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if zero_init_residual:
            initialise(self, "zero_init_residual")

    def stages(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        yield x
        x = self.maxpool(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = self.through(layer, x)
            yield x

    def forward_head(self, x, pre_logits=False):
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)

    def group_matcher(self, coarse=False):
        return {"stem": r"^conv1|^bn1", "blocks": r"^layer(\d+)" + r"\.(\d+)" * (not coarse)}


@register()
def resnet18(**kwargs):
    return ResNet(BasicBlock, (2, 2, 2, 2), **kwargs)


@register()
def resnet34(**kwargs):
    return ResNet(BasicBlock, (3, 4, 6, 3), **kwargs)


@register()
def resnet50(**kwargs):
    return ResNet(Bottleneck, (3, 4, 6, 3), **kwargs)


@register()
def resnet101(**kwargs):
    return ResNet(Bottleneck, (3, 4, 23, 3), **kwargs)


@register()
def resnet152(**kwargs):
    return ResNet(Bottleneck, (3, 8, 36, 3), **kwargs)


@register()
def resnext50_32x4d(**kwargs):
    return ResNet(Bottleneck, (3, 4, 6, 3), **{"groups": 32, "width_per_group": 4, **kwargs})


@register()
def resnext101_32x8d(**kwargs):
    return ResNet(Bottleneck, (3, 4, 23, 3), **{"groups": 32, "width_per_group": 8, **kwargs})


@register()
def resnext101_64x4d(**kwargs):
    return ResNet(Bottleneck, (3, 4, 23, 3), **{"groups": 64, "width_per_group": 4, **kwargs})


@register()
def wide_resnet50_2(**kwargs):
    return ResNet(Bottleneck, (3, 4, 6, 3), **{"width_per_group": 128, **kwargs})


@register()
def wide_resnet101_2(**kwargs):
    return ResNet(Bottleneck, (3, 4, 23, 3), **{"width_per_group": 128, **kwargs})
