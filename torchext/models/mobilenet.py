"""MobileNet (v1) as timm has it: depthwise and pointwise convolutions in turn, no shortcuts."""

import math

import torch
from torch import nn

from .. import nn as tn
from ..nn import functional as F
from ._model import Model, check_pool
from ._registry import register
from .mobilenet_v2 import make_divisible

# (blocks, channels, stride of the first block)
STAGES = ((1, 64, 1), (2, 128, 2), (2, 256, 2), (6, 512, 2), (2, 1024, 2))


class DepthwiseSeparableConv(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv_dw = tn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.bn1 = tn.BatchNorm2d(channels)
        self.conv_pw = tn.Conv2d(channels, out, 1, bias=False)
        self.bn2 = tn.BatchNorm2d(out)
        self.act = tn.ReLU6(inplace=True)

    def forward(self, x):
        x = self.act(self.bn1(self.conv_dw(x)))
        return self.act(self.bn2(self.conv_pw(x)))


class GlobalPool(nn.Module):
    """Of all pixels "avg" or "max", or both: "avgmax", their mean, "catavgmax", one behind the
    other; "" leaves the map as it is."""

    def __init__(self, pool_type):
        super().__init__()
        self.pool_type = pool_type
        if "avg" in pool_type:
            self.avg = tn.AdaptiveAvgPool2d(1)
        if "max" in pool_type:
            self.max = nn.AdaptiveMaxPool2d(1)

    def forward(self, x):
        if not self.pool_type:
            return x
        pooled = [torch.flatten(pool(x), 1) for pool in self.children()]
        if self.pool_type == "avgmax":
            return 0.5 * (pooled[0] + pooled[1])
        return torch.cat(pooled, 1) if self.pool_type == "catavgmax" else pooled[0]

    def feat_mult(self):
        return 2 if self.pool_type == "catavgmax" else 1


class MobileNetV1(Model):
    classifier_name = "classifier"
    global_pools = ("avg", "max", "avgmax", "catavgmax", "")

    def __init__(
        self, num_classes=1000, in_chans=3, width_mult=1.0, drop_rate=0.0, global_pool="avg"
    ):
        super().__init__()
        check_pool("MobileNetV1", global_pool, self.global_pools)
        channels = make_divisible(32 * width_mult, 8)
        self.conv_stem = tn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = tn.BatchNorm2d(channels)
        self.act = tn.ReLU6(inplace=True)
        # timm tries out a block that it does not use: so the same seed gives the same weights.
        tn.Conv2d(8, 8, 1), tn.Conv2d(8, 8, 1)
        self.blocks, self.feature_info, reduction = nn.Sequential(), [], 2
        for i, (count, out, stride) in enumerate(STAGES):
            out = make_divisible(out * width_mult, 8)
            stage = nn.Sequential()
            for j in range(count):
                stage.append(DepthwiseSeparableConv(channels, out, 1 if j else stride))
                channels = out
            self.blocks.append(stage)
            reduction *= stride
            self.feature_info.append(
                {"num_chs": channels, "reduction": reduction, "module": f"blocks.{i}"}
            )
        self.global_pool = GlobalPool(global_pool)
        self.drop_rate = drop_rate
        self.num_features = channels
        self.reset_classifier(num_classes)
        self.apply(_initialise)

    def stages(self, x):
        x = self.act(self.bn1(self.conv_stem(x)))
        for stage in self.blocks:
            x = self.through(stage, x)
            yield x

    def forward_head(self, x, pre_logits=False):
        x = self.global_pool(x)
        if self.drop_rate > 0:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.classifier(x)

    @property
    def head_hidden_size(self):
        return self.num_features * self.global_pool.feat_mult()

    def set_global_pool(self, global_pool):
        self.global_pool = GlobalPool(global_pool).train(self.training)

    def group_matcher(self, coarse=False):
        return {"stem": r"^conv_stem|^bn1", "blocks": r"^blocks\.(\d+)" + r"\.(\d+)" * (not coarse)}


def _initialise(module):
    """TensorFlow's: by how many outputs there are."""
    if isinstance(module, nn.Conv2d):
        outputs = module.weight[:, 0].numel() // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / outputs))
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


@register(timms=True)
def mobilenetv1_100(**kwargs):
    return MobileNetV1(**kwargs)


@register(weights_of="mobilenetv1_100", timms=True)
def mobilenet_v1(**kwargs):
    return MobileNetV1(**kwargs)


@register(weights_of="mobilenetv1_100", timms=True)
def mobilenet(**kwargs):
    return MobileNetV1(**kwargs)
