"""What AlexNet, VGG and MobileNet 2 and 3 share in torchvision: `features`, then `classifier`."""

import torch

from ._model import Model


def feature_info_of(features):
    """For each reduction the last layer that has it; layers tell their `out_channels` and `stride`,
    or change neither."""
    maps, channels, reduction = {}, None, 1
    for i, layer in enumerate(features):
        channels = getattr(layer, "out_channels", channels)
        stride = getattr(layer, "stride", 1)
        reduction *= stride if isinstance(stride, int) else stride[0]
        maps[reduction] = {"num_chs": channels, "reduction": reduction, "module": f"features.{i}"}
    return list(maps.values())


class SequentialModel(Model):
    """`features`, `avgpool` and `classifier` one after another. What is put in the place of
    `features` runs as it is, and its hooks too."""

    @property
    def classifier_name(self):
        return f"classifier.{len(self.classifier) - 1}"

    def _stage_ends(self):
        return [int(info["module"].removeprefix("features.")) + 1 for info in self.feature_info]

    def stages(self, x):
        begin = 0
        for end in self._stage_ends():
            x = self.through(self.features[begin:end], x)
            yield x
            begin = end

    def finish(self, x):
        return self.features[self._stage_ends()[-1] :](x)

    def forward_features(self, x):
        return super().forward_features(x) if self.grad_checkpointing else self.features(x)

    def forward_head(self, x, pre_logits=False):
        x = torch.flatten(self.avgpool(x), 1)
        return self.classifier[:-1](x) if pre_logits else self.classifier(x)

    def group_matcher(self, coarse=False):
        return {"stem": r"^features\.0\.", "blocks": r"^features\.(\d+)\."}
