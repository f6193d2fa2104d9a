"""Convolution, batch norm and activation in one: blocks of ResNet and MobileNet V1 and V2.

Necessary work. Inference reads x, the weights and the residual, and writes y; what lies between two
convolutions is nowhere. Training reads x and the weight twice and writes their gradients; in units
of y it writes the convolution's result, reads it to normalise and writes y, and reads that result
and dy once for the gradient's sums and once for the gradient; a residual is read, and its gradient
written.
"""

import torch
from torch import nn

from ..case import SHORT, SIZE, Case

# (model, input channels, output channels, height = width, kernel, stride, groups, activation,
# whether a residual is added)
BLOCKS = [
    ("resnet", 3, 64, 224, 7, 2, 1, "relu", False),
    ("resnet", 64, 64, 56, 3, 1, 1, "relu", True),
    ("resnet", 64, 128, 56, 1, 2, 1, None, False),
    ("resnet", 128, 256, 28, 3, 2, 1, "relu", False),
    ("resnet", 512, 512, 7, 3, 1, 1, "relu", True),
    ("resnet", 256, 64, 56, 1, 1, 1, "relu", False),
    ("resnet", 64, 256, 56, 1, 1, 1, "relu", True),
    ("resnet", 256, 1024, 14, 1, 1, 1, "relu", True),
    ("mobilenet", 3, 32, 224, 3, 2, 1, "relu6", False),
    ("mobilenet", 24, 144, 56, 1, 1, 1, "relu6", False),
    ("mobilenet", 144, 144, 56, 3, 1, 144, "relu6", False),
    ("mobilenet", 96, 576, 14, 1, 1, 1, "relu6", False),
]
# (model, input channels, output channels, height = width, stride, activations, whether a residual
# is added), kernel 3
SEPARABLE = [
    ("mobilenet_v1", 32, 64, 112, 1, ("relu", "relu"), False),
    ("mobilenet_v1", 64, 128, 112, 2, ("relu", "relu"), False),
    ("mobilenet_v1", 256, 256, 28, 1, ("relu", "relu"), False),
    ("mobilenet_v1", 512, 512, 14, 1, ("relu", "relu"), False),
    ("mobilenet_v1", 1024, 1024, 7, 1, ("relu", "relu"), False),
    ("mobilenet_v2", 144, 24, 56, 1, ("relu6", None), True),
    ("mobilenet_v2", 144, 32, 56, 2, ("relu6", None), False),
    ("mobilenet_v2", 384, 64, 14, 1, ("relu6", None), True),
    ("mobilenet_v2", 960, 160, 7, 1, ("relu6", None), True),
]
QUICK = {"conv_bn_act/resnet-64x56x56-64-k3s1", "depthwise_separable/mobilenet_v1-512x14x14-512-s1"}
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, None: nn.Identity}


class ConvBNAct(nn.Module):
    """torch.nn's layers, under the names that torchext's module has."""

    def __init__(self, inputs, outputs, kernel, stride, groups, activation):
        super().__init__()
        window = (kernel, stride, kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, *window, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x, residual=None):
        y = self.bn(self.conv(x))
        return self.activation(y if residual is None else y + residual)


class DepthwiseSeparable(nn.Module):
    def __init__(self, depthwise, pointwise):
        super().__init__()
        self.depthwise, self.pointwise = ConvBNAct(*depthwise), ConvBNAct(*pointwise)

    def forward(self, x, residual=None):
        return self.pointwise(self.depthwise(x), residual)


def _off_the_kinks(module):
    """No sum lies next to 0 or 6: there a rounding error decides whether a gradient passes."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.weight, 0.5)
            nn.init.constant_(layer.bias, 3.0)
    return module


def cases():
    work = [
        (batch, dtype, training) for batch in (1, 8) for dtype in SIZE for training in (False, True)
    ]
    found = [_conv_bn_act(*block, *w) for block in BLOCKS for w in work]
    return found + [_separable(*block, *w) for block in SEPARABLE for w in work]


def _conv_bn_act(model, inputs, outputs, size, kernel, stride, groups, activation, *rest):
    layer = (inputs, outputs, kernel, stride, groups, activation)

    def ours():
        window = {"kernel_size": kernel, "stride": stride, "groups": groups}
        return _torchext().ConvBNAct(inputs, outputs, **window, activation=activation)

    name = f"conv_bn_act/{model}-{inputs}x{size}x{size}-{outputs}-k{kernel}s{stride}"
    return _case(name, lambda: ConvBNAct(*layer), ours, [layer], size, *rest)


def _separable(model, inputs, outputs, size, stride, activations, *rest):
    depthwise = (inputs, inputs, 3, stride, inputs, activations[0])
    pointwise = (inputs, outputs, 1, 1, 1, activations[1])

    def ours():
        module = _torchext().DepthwiseSeparable
        return module(inputs, outputs, stride=stride, activation=activations)

    name = f"depthwise_separable/{model}-{inputs}x{size}x{size}-{outputs}-s{stride}"
    layers = [depthwise, pointwise]
    return _case(name, lambda: DepthwiseSeparable(*layers), ours, layers, size, *rest)


def _case(name, reference, ours, layers, size, residual, batch, dtype, training):
    shapes = [(batch, layers[0][0], size, size)]
    x = batch * layers[0][0] * size * size
    inferred, trained, flops, sum_length = x, 0, 0, 0
    for inputs, outputs, kernel, stride, groups, _ in layers:
        size = (size - 1) // stride + 1
        y, terms = batch * outputs * size * size, inputs // groups * kernel * kernel
        inferred += outputs * terms
        trained += 3 * x + 3 * outputs * terms + 7 * y
        flops += 2 * y * terms * (3 if training else 1)
        sum_length = max(sum_length, terms, batch * size * size if training else 0)
        x = y
    moved = trained if training else inferred + y
    if residual:
        shapes.append((batch, outputs, size, size))
        moved += y * (2 if training else 1)
    return Case(
        name=f"{name}/b{batch}/{SHORT[dtype]}" + ("/train" if training else ""),
        family=name.split("/")[0] + ("_train" if training else ""),
        make_inputs=lambda generator: tuple(torch.randn(s, generator=generator) for s in shapes),
        reference=(lambda: _off_the_kinks(reference())) if training else reference,
        ours=(lambda: _off_the_kinks(ours())) if training else ours,
        bytes=moved * SIZE[dtype],
        flops=flops,
        sum_length=sum_length,
        dtype=dtype,
        batch=batch,
        training=training,
        autotuned=layers[-1][2] == 1,
        quick=name in QUICK and (batch, dtype, training) == (1, "float32", False),
    )


def _torchext():
    import torchext.nn

    return torchext.nn
