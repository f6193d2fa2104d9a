"""Convolution: the distinct layers of the zoo's models at batch 1 and 8, forward and training.

Necessary work: forward reads x and the weight and writes y; training reads both once more, and dy,
and writes their gradients. A multiplication and an addition are two FLOPs, three times in training.
"""

import torch
from torch import nn

from ..case import SHORT, SIZE, Case

# (input channels, output channels, height = width, kernel, stride); groups are 1.
LAYERS = {
    "alexnet": [
        (3, 64, 224, 11, 4),
        (64, 192, 27, 5, 1),
        (192, 384, 13, 3, 1),
        (384, 256, 13, 3, 1),
        (256, 256, 13, 3, 1),
    ],
    "vgg16": [
        (3, 64, 224, 3, 1),
        (64, 64, 224, 3, 1),
        (64, 128, 112, 3, 1),
        (128, 128, 112, 3, 1),
        (128, 256, 56, 3, 1),
        (256, 256, 56, 3, 1),
        (256, 512, 28, 3, 1),
        (512, 512, 28, 3, 1),
        (512, 512, 14, 3, 1),
    ],
    "googlenet": [
        (64, 64, 56, 1, 1),
        (64, 192, 56, 3, 1),
        (192, 64, 28, 1, 1),
        (96, 128, 28, 3, 1),
        (16, 32, 28, 3, 1),
        (480, 192, 14, 1, 1),
        (160, 320, 14, 3, 1),
        (832, 384, 7, 1, 1),
        (192, 384, 7, 3, 1),
    ],
    "resnet": [
        (3, 64, 224, 7, 2),
        (64, 64, 56, 3, 1),
        (64, 128, 56, 3, 2),
        (128, 128, 28, 3, 1),
        (128, 256, 28, 3, 2),
        (256, 256, 14, 3, 1),
        (256, 512, 14, 3, 2),
        (512, 512, 7, 3, 1),
        (64, 128, 56, 1, 2),
        (64, 256, 56, 1, 1),
        (256, 64, 56, 1, 1),
        (256, 512, 56, 1, 2),
        (128, 512, 28, 1, 1),
        (512, 128, 28, 1, 1),
        (512, 1024, 28, 1, 2),
        (256, 1024, 14, 1, 1),
        (1024, 256, 14, 1, 1),
        (1024, 2048, 14, 1, 2),
        (512, 2048, 7, 1, 1),
        (2048, 512, 7, 1, 1),
    ],
    "mobilenet": [
        (3, 32, 224, 3, 2),
        (32, 16, 112, 1, 1),
        (16, 96, 112, 1, 1),
        (96, 24, 56, 1, 1),
        (24, 144, 56, 1, 1),
        (144, 32, 28, 1, 1),
        (32, 192, 28, 1, 1),
        (192, 64, 14, 1, 1),
        (64, 384, 14, 1, 1),
        (384, 96, 14, 1, 1),
        (96, 576, 14, 1, 1),
        (576, 160, 7, 1, 1),
        (160, 960, 7, 1, 1),
        (960, 320, 7, 1, 1),
        (320, 1280, 7, 1, 1),
    ],
    "vit": [(3, 768, 224, 16, 16)],
}
# (channels, height = width, stride), kernel 3: MobileNet V2's.
DEPTHWISE = [
    (32, 112, 1),
    (96, 112, 2),
    (144, 56, 1),
    (144, 56, 2),
    (192, 28, 1),
    (192, 28, 2),
    (384, 14, 1),
    (576, 14, 1),
    (576, 14, 2),
    (960, 7, 1),
]
# (channels, height = width, stride) of 32 groups, kernel 3.
GROUPED = {
    "resnext50": [(128, 56, 1), (256, 56, 2), (256, 28, 1), (512, 28, 2), (512, 14, 1)],
    "resnext101": [(256, 56, 1)],
}
QUICK = {("resnet", 64, 64, 3), ("resnet", 256, 1024, 1), ("mobilenet", 144, 144, 3)}


def cases():
    layers = [(model, *layer, 1) for model, found in LAYERS.items() for layer in found]
    layers += [("mobilenet", c, c, size, 3, stride, c) for c, size, stride in DEPTHWISE]
    layers += [
        (model, c, c, size, 3, stride, 32)
        for model, found in GROUPED.items()
        for c, size, stride in found
    ]
    return [
        _case(layer, batch, dtype, training)
        for layer in layers
        for batch in (1, 8)
        for dtype in SIZE
        for training in (False, True)
    ]


def _case(layer, batch, dtype, training):
    model, inputs, outputs, size, kernel, stride, groups = layer
    # AlexNet's stem and ViT's patches are padded less than by half a window.
    padding = 0 if kernel == stride and kernel > 1 else 2 if kernel == 11 else kernel // 2
    out = (size + 2 * padding - kernel) // stride + 1
    x, y = batch * inputs * size * size, batch * outputs * out * out
    weight = outputs * (inputs // groups) * kernel * kernel
    moved = 3 * x + 3 * weight + 2 * y if training else x + weight + y
    family = "conv2d" if groups == 1 else "depthwise" if groups == inputs else "grouped"

    def make(layers):
        return layers.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)

    return Case(
        name=f"{family}/{model}-{inputs}x{size}x{size}-{outputs}-k{kernel}s{stride}"
        f"/b{batch}/{SHORT[dtype]}" + ("/train" if training else ""),
        family=family + ("_train" if training else ""),
        make_inputs=lambda generator: (
            torch.randn(batch, inputs, size, size, generator=generator),
        ),
        reference=lambda: make(nn),
        ours=lambda: make(_torchext()),
        bytes=moved * SIZE[dtype],
        flops=2 * y * (inputs // groups) * kernel * kernel * (3 if training else 1),
        sum_length=max(weight // outputs, batch * out * out if training else 0),
        dtype=dtype,
        batch=batch,
        training=training,
        autotuned=kernel == 1,
        quick=(model, inputs, outputs, kernel) in QUICK
        and (batch, dtype, training) == (1, "float32", False),
    )


def _torchext():
    import torchext.nn

    return torchext.nn
