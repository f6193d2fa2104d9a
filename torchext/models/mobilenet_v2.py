"""MobileNetV2 as in torchvision: blocks that expand, filter each channel, and project."""

from torch import nn

from .. import nn as tn
from ..nn import functional as F
from ..nn._whole import keep_whole
from ._registry import register
from ._sequential import SequentialModel, feature_info_of

# (expansion, channels, blocks, stride of the first block)
SETTING = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def make_divisible(channels, divisor):
    """The nearest multiple that is not below 0.9 of it."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


class Conv2dNormActivation(nn.Sequential):
    """One node for torchvision's feature extraction, as its own one is."""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size=3,
        stride=1,
        groups=1,
        norm_layer=tn.BatchNorm2d,
        activation_layer=tn.ReLU,
        dilation=1,
    ):
        padding = (kernel_size - 1) // 2 * dilation
        window = (kernel_size, stride, padding, dilation, groups)
        layers = [tn.Conv2d(in_channels, out_channels, *window, bias=False)]
        layers.append(norm_layer(out_channels))
        layers += [activation_layer(inplace=True)] if activation_layer else []
        super().__init__(*layers)
        self.out_channels, self.stride = out_channels, stride


keep_whole(Conv2dNormActivation)


class InvertedResidual(nn.Module):
    def __init__(self, inp, oup, stride, expand_ratio, norm_layer=None):
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"InvertedResidual: stride: got {stride}, expected 1 or 2")
        norm_layer = norm_layer or tn.BatchNorm2d
        hidden = round(inp * expand_ratio)
        usual = {"norm_layer": norm_layer, "activation_layer": tn.ReLU6}
        layers = [Conv2dNormActivation(inp, hidden, 1, **usual)] if expand_ratio != 1 else []
        layers += [
            Conv2dNormActivation(hidden, hidden, stride=stride, groups=hidden, **usual),
            tn.Conv2d(hidden, oup, 1, bias=False),
            norm_layer(oup),
        ]
        self.conv = nn.Sequential(*layers)
        self.out_channels, self.stride = oup, stride
        self.use_res_connect = stride == 1 and inp == oup
        self.residual_end = f"conv.{len(layers) - 1}" if self.use_res_connect else None

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(SequentialModel):
    def __init__(
        self,
        num_classes=1000,
        width_mult=1.0,
        inverted_residual_setting=None,
        round_nearest=8,
        block=None,
        norm_layer=None,
        dropout=0.2,
        in_chans=3,
    ):
        super().__init__()
        setting = SETTING if inverted_residual_setting is None else inverted_residual_setting
        if not setting or len(setting[0]) != 4:
            raise ValueError(
                f"MobileNetV2: inverted_residual_setting: got {setting}, expected rows of four:"
                " expansion, channels, blocks, stride"
            )
        block, norm_layer = block or InvertedResidual, norm_layer or tn.BatchNorm2d
        usual = {"norm_layer": norm_layer, "activation_layer": tn.ReLU6}
        channels = make_divisible(32 * width_mult, round_nearest)
        last = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        features = [Conv2dNormActivation(in_chans, channels, stride=2, **usual)]
        for expansion, out, count, stride in setting:
            out = make_divisible(out * width_mult, round_nearest)
            for i in range(count):
                stride_here = 1 if i else stride
                features.append(
                    block(channels, out, stride_here, expand_ratio=expansion, norm_layer=norm_layer)
                )
                channels = out
        self.feature_info = feature_info_of(features)  # as in timm, without the head's convolution
        features.append(Conv2dNormActivation(channels, last, 1, **usual))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(tn.Dropout(dropout), tn.Linear(last, num_classes))
        self.num_classes, self.num_features, self.last_channel = num_classes, last, last
        self.apply(initialise)

    def avgpool(self, x):  # not a module: torchvision's node has the function's name
        return F.adaptive_avg_pool2d(x, (1, 1))


def initialise(module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


@register()
def mobilenet_v2(**kwargs):
    return MobileNetV2(**kwargs)
