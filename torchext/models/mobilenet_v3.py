"""MobileNetV3 as in torchvision: MobileNetV2's blocks with squeeze-and-excitation and hardswish."""

from functools import partial

from torch import nn

from .. import nn as tn
from ..nn._whole import keep_whole
from ._registry import register
from ._sequential import SequentialModel, feature_info_of
from .mobilenet_v2 import Conv2dNormActivation, initialise, make_divisible

# (kernel, expanded channels, channels, squeeze-and-excitation, activation, stride); the last three
# are what reduced_tail and dilated change
LARGE = (
    (3, 16, 16, False, "RE", 1),
    (3, 64, 24, False, "RE", 2),
    (3, 72, 24, False, "RE", 1),
    (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1),
    (5, 120, 40, True, "RE", 1),
    (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1),
    (3, 672, 112, True, "HS", 1),
    (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1),
    (5, 960, 160, True, "HS", 1),
)
SMALL = (
    (3, 16, 16, True, "RE", 2),
    (3, 72, 24, False, "RE", 2),
    (3, 88, 24, False, "RE", 1),
    (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1),
    (5, 240, 40, True, "HS", 1),
    (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1),
    (5, 288, 96, True, "HS", 2),
    (5, 576, 96, True, "HS", 1),
    (5, 576, 96, True, "HS", 1),
)


class InvertedResidualConfig:
    """What one block is made of, its channels multiplied by width_mult and rounded to eights."""

    def __init__(
        self,
        input_channels,
        kernel,
        expanded_channels,
        out_channels,
        use_se,
        activation,
        stride,
        dilation,
        width_mult,
    ):
        self.input_channels = self.adjust_channels(input_channels, width_mult)
        self.expanded_channels = self.adjust_channels(expanded_channels, width_mult)
        self.out_channels = self.adjust_channels(out_channels, width_mult)
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        self.use_se, self.use_hs = use_se, activation == "HS"

    @staticmethod
    def adjust_channels(channels, width_mult):
        return make_divisible(channels * width_mult, 8)


class SqueezeExcitation(nn.Module):
    """Scales each channel by what all of them are on average."""

    def __init__(self, input_channels, squeeze_channels):
        super().__init__()
        self.avgpool = tn.AdaptiveAvgPool2d(1)
        self.fc1 = tn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = tn.Conv2d(squeeze_channels, input_channels, 1)
        self.activation = tn.ReLU()
        self.scale_activation = tn.Hardsigmoid()

    def forward(self, input):
        scale = self.fc2(self.activation(self.fc1(self.avgpool(input))))
        return self.scale_activation(scale) * input


keep_whole(SqueezeExcitation)


class InvertedResidual(nn.Module):
    def __init__(self, cnf, norm_layer, se_layer=SqueezeExcitation):
        super().__init__()
        if cnf.stride not in (1, 2):
            raise ValueError(f"InvertedResidual: stride: got {cnf.stride}, expected 1 or 2")
        expanded = cnf.expanded_channels
        activation = tn.Hardswish if cnf.use_hs else tn.ReLU
        conv = partial(Conv2dNormActivation, norm_layer=norm_layer)
        self.out_channels = cnf.out_channels
        self.stride = 1 if cnf.dilation > 1 else cnf.stride
        layers = []
        if expanded != cnf.input_channels:
            layers.append(conv(cnf.input_channels, expanded, 1, activation_layer=activation))
        layers.append(
            conv(
                expanded,
                expanded,
                cnf.kernel,
                self.stride,
                groups=expanded,
                dilation=cnf.dilation,
                activation_layer=activation,
            )
        )
        if cnf.use_se:
            layers.append(se_layer(expanded, make_divisible(expanded // 4, 8)))
        layers.append(conv(expanded, cnf.out_channels, 1, activation_layer=None))
        self.block = nn.Sequential(*layers)
        # A block that strides has no shortcut, not even where dilation takes its place.
        self.use_res_connect = cnf.stride == 1 and cnf.input_channels == cnf.out_channels
        self.residual_end = f"block.{len(layers) - 1}.1" if self.use_res_connect else None

    def forward(self, input):
        result = self.block(input)
        if self.use_res_connect:
            result += input
        return result


class MobileNetV3(SequentialModel):
    def __init__(
        self,
        inverted_residual_setting,
        last_channel,
        num_classes=1000,
        block=None,
        norm_layer=None,
        dropout=0.2,
        in_chans=3,
    ):
        super().__init__()
        if not inverted_residual_setting:
            raise ValueError("MobileNetV3: inverted_residual_setting: got nothing, expected blocks")
        block = block or InvertedResidual
        norm_layer = norm_layer or partial(tn.BatchNorm2d, eps=0.001, momentum=0.01)
        first, last = inverted_residual_setting[0], inverted_residual_setting[-1]
        usual = {"norm_layer": norm_layer, "activation_layer": tn.Hardswish}
        channels = 6 * last.out_channels
        self.features = nn.Sequential(
            Conv2dNormActivation(in_chans, first.input_channels, stride=2, **usual),
            *(block(cnf, norm_layer) for cnf in inverted_residual_setting),
            Conv2dNormActivation(last.out_channels, channels, 1, **usual),
        )
        self.avgpool = tn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            tn.Linear(channels, last_channel),
            tn.Hardswish(inplace=True),
            tn.Dropout(dropout, inplace=True),
            tn.Linear(last_channel, num_classes),
        )
        self.feature_info = feature_info_of(self.features)
        self.num_classes, self.num_features = num_classes, last_channel
        self.apply(initialise)


def _mobilenet_v3(rows, last_channel, width_mult=1.0, reduced_tail=False, dilated=False, **kwargs):
    """
    reduced_tail  halves the channels of the last layers
    dilated       the last three blocks keep the resolution and spread their filters instead
    """
    divider = 2 if reduced_tail else 1
    setting, channels = [], 16
    for i, (kernel, expanded, out, *rest) in enumerate(rows, start=-len(rows)):
        expanded //= divider if i >= -2 else 1
        out //= divider if i >= -3 else 1
        dilation = 2 if dilated and i >= -3 else 1
        widths = (channels, kernel, expanded, out)
        setting.append(InvertedResidualConfig(*widths, *rest, dilation, width_mult))
        channels = out
    last_channel = InvertedResidualConfig.adjust_channels(last_channel // divider, width_mult)
    return MobileNetV3(setting, last_channel, **kwargs)


@register()
def mobilenet_v3_large(**kwargs):
    return _mobilenet_v3(LARGE, 1280, **kwargs)


@register()
def mobilenet_v3_small(**kwargs):
    return _mobilenet_v3(SMALL, 1024, **kwargs)
