"""Pooling: every pool of AlexNet, VGG-16, GoogLeNet and ResNet at batch 1 and 8, f32 and bf16.

Necessary work: forward reads x and writes y. Backward reads dy and writes dx; max pooling also
writes and reads one byte per output that says which input won. A comparison or an addition counts
as one FLOP.
"""

import functools
from math import ceil

import torch
import torch.nn.functional as F

from ..case import SHORT, SIZE, Case

# (model, op, channels, height = width, arguments). ResNet-18's and ResNet-50's average is ours too.
LAYERS = [
    ("alexnet", "max_pool2d", 64, 55, {"kernel_size": 3, "stride": 2}),
    ("alexnet", "max_pool2d", 192, 27, {"kernel_size": 3, "stride": 2}),
    ("alexnet", "max_pool2d", 256, 13, {"kernel_size": 3, "stride": 2}),
    ("vgg16", "max_pool2d", 64, 224, {"kernel_size": 2, "stride": 2}),
    ("vgg16", "max_pool2d", 128, 112, {"kernel_size": 2, "stride": 2}),
    ("vgg16", "max_pool2d", 256, 56, {"kernel_size": 2, "stride": 2}),
    ("vgg16", "max_pool2d", 512, 28, {"kernel_size": 2, "stride": 2}),
    ("vgg16", "max_pool2d", 512, 14, {"kernel_size": 2, "stride": 2}),
    ("googlenet", "max_pool2d", 64, 112, {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ("googlenet", "max_pool2d", 192, 56, {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ("googlenet", "max_pool2d", 480, 28, {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ("googlenet", "max_pool2d", 832, 14, {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
    ("googlenet", "max_pool2d", 192, 28, {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("googlenet", "max_pool2d", 512, 14, {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("googlenet", "max_pool2d", 832, 7, {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("googlenet", "adaptive_avg_pool2d", 1024, 7, {"output_size": 1}),
    ("resnet", "max_pool2d", 64, 112, {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("resnet", "adaptive_avg_pool2d", 512, 7, {"output_size": 1}),
    ("resnet", "adaptive_avg_pool2d", 2048, 7, {"output_size": 1}),
]
# (model, channels, size) of LAYERS: each kind of window once.
QUICK = {("alexnet", 64, 55), ("vgg16", 256, 56), ("googlenet", 512, 14), ("resnet", 2048, 7)}
TRAINED = {
    ("alexnet", 192, 27),
    ("vgg16", 256, 56),
    ("googlenet", 480, 28),
    ("resnet", 64, 112),
    ("resnet", 512, 7),
    ("resnet", 2048, 7),
}
OVERHEAD = (1, 16, 4, 4)  # one kilobyte: what is left is the call


def cases():
    forward = [(layer, batch, False) for layer in LAYERS for batch in (1, 8)]
    trained = [(layer, 8, True) for layer in LAYERS if _key(layer) in TRAINED]
    layers = [_layer(*work, dtype) for work in forward + trained for dtype in SIZE]
    return [*layers, _overhead()]


def _key(layer):
    model, _, channels, size, _ = layer
    return model, channels, size


def _layer(layer, batch, training, dtype):
    model, op, channels, size, arguments = layer
    shape = (batch, channels, size, size)
    outputs = batch * channels * _output_size(size, **arguments) ** 2
    window = arguments.get("kernel_size", size)
    necessary = (batch * channels * size * size + outputs) * SIZE[dtype]
    if training:
        necessary = 2 * necessary + (2 * outputs if op == "max_pool2d" else 0)
    how = f"k{window}s{arguments['stride']}" if op == "max_pool2d" else "global"
    name = f"{op}/{model}-{channels}x{size}x{size}-{how}"
    return Case(
        name=f"{name}/b{batch}/{SHORT[dtype]}" + ("/train" if training else ""),
        family=op + ("_train" if training else ""),
        make_inputs=lambda generator: (torch.randn(shape, generator=generator),),
        reference=lambda: functools.partial(getattr(F, op), **arguments),
        ours=lambda: functools.partial(_torchext(op), **arguments),
        bytes=necessary,
        flops=outputs * window * window * (2 if training else 1),
        sum_length=window * window,
        dtype=dtype,
        batch=batch,
        training=training,
        quick=_key(layer) in QUICK and batch == 1 and not training,
    )


def _output_size(size, kernel_size=0, stride=1, padding=0, ceil_mode=False, output_size=None):
    if output_size:
        return output_size
    steps = (size + 2 * padding - kernel_size) / stride
    return (ceil(steps) if ceil_mode else int(steps)) + 1


def _overhead():
    arguments = {"kernel_size": 2, "stride": 2}
    return Case(
        name="call_overhead/max_pool2d-16x4x4/b1/f32",
        family="call_overhead",
        make_inputs=lambda generator: (torch.randn(OVERHEAD, generator=generator),),
        reference=lambda: functools.partial(F.max_pool2d, **arguments),
        ours=lambda: functools.partial(_torchext("max_pool2d"), **arguments),
        bytes=0,
        devices=("cpu",),  # events on a GPU don't see the host's time
        quick=True,
    )


def _torchext(op):
    import torchext.nn.functional

    return getattr(torchext.nn.functional, op)
