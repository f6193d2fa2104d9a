"""Linear layers, norms, activations, softmax and losses, as the zoo's models have them.

Necessary work: forward reads its input (and weights) and writes its output; training reads what the
gradient needs once more, and the gradient, and writes one. Arithmetic is counted for linear layers
only, two FLOPs a term: the others wait for memory.
"""

import math

import torch
from torch import nn

from ..case import SHORT, SIZE, Case

# (model, rows per sample, inputs, outputs)
LINEARS = [
    ("alexnet", 1, 9216, 4096),
    ("vgg16", 1, 25088, 4096),
    ("alexnet", 1, 4096, 4096),
    ("resnet", 1, 2048, 1000),
    ("vit", 197, 768, 2304),
    ("vit", 197, 768, 768),
    ("vit", 197, 768, 3072),
    ("vit", 197, 3072, 768),
    ("swin", 3136, 96, 288),
    ("swin", 784, 192, 768),
    ("swin", 49, 3072, 768),
]
# (family, model, sizes of one sample, the module's name, its arguments)
OTHERS = [
    ("layer_norm", "vit", (197, 768), "LayerNorm", (768,)),
    ("layer_norm", "swin", (56, 56, 96), "LayerNorm", (96,)),
    ("layer_norm", "swin", (7, 7, 768), "LayerNorm", (768,)),
    ("batch_norm", "resnet", (64, 112, 112), "BatchNorm2d", (64,)),
    ("batch_norm", "resnet", (256, 56, 56), "BatchNorm2d", (256,)),
    ("batch_norm", "resnet", (512, 7, 7), "BatchNorm2d", (512,)),
    ("group_norm", "resnet", (256, 56, 56), "GroupNorm", (32, 256)),
    ("local_response_norm", "alexnet", (96, 55, 55), "LocalResponseNorm", (5,)),
    ("activation", "resnet", (256, 56, 56), "ReLU", ()),
    ("activation", "mobilenet", (96, 112, 112), "ReLU6", ()),
    ("activation", "mobilenet", (240, 28, 28), "Hardswish", ()),
    ("activation", "efficientnet", (96, 112, 112), "SiLU", ()),
    ("activation", "vit", (197, 3072), "GELU", ()),
    ("activation", "lstm", (35, 650), "Tanh", ()),
    ("softmax", "vit", (12, 197, 197), "Softmax", (-1,)),
    ("softmax", "resnet", (1000,), "Softmax", (-1,)),
    ("softmax", "resnet", (1000,), "LogSoftmax", (-1,)),
]
QUICK = {"linear/vit-197x768-768", "layer_norm/vit-197x768", "activation/vit-197x3072-GELU"}


def cases():
    work = [
        (batch, dtype, training) for batch in (1, 8) for dtype in SIZE for training in (False, True)
    ]
    linears = [_linear(*layer, *w) for layer in LINEARS for w in work]
    # torch has no bfloat16 local_response_norm on a CPU to compare with.
    return linears + [
        _other(*layer, *w)
        for layer in OTHERS
        for w in work
        if layer[0] != "local_response_norm" or w[1] == "float32"
    ]


def _linear(model, rows, inputs, outputs, batch, dtype, training):
    shape = (batch, rows, inputs) if rows > 1 else (batch, inputs)
    x, y, weight = batch * rows * inputs, batch * rows * outputs, inputs * outputs
    return _case(
        f"linear/{model}-{rows}x{inputs}-{outputs}",
        shape,
        lambda layers: layers.Linear(inputs, outputs),
        moved=3 * x + 3 * weight + 2 * y if training else x + weight + y,
        flops=2 * batch * rows * weight * (3 if training else 1),
        sum_length=max(inputs, batch * rows if training else 0),
        autotuned=True,
        batch=batch,
        dtype=dtype,
        training=training,
    )


def _other(family, model, sizes, module, arguments, batch, dtype, training):
    count = batch * math.prod(sizes)
    plain = module.removesuffix("2d").lower().replace("norm", "_norm") == family
    return _case(
        f"{family}/{model}-{'x'.join(map(str, sizes))}" + ("" if plain else f"-{module}"),
        (batch, *sizes),
        lambda layers: getattr(layers, module)(*arguments),
        moved=count * (5 if training else 2),
        sum_length=count if "norm" in family and training else sizes[-1],
        # What a linear layer follows or feeds lies row by row, however many dimensions it has.
        layout="contiguous" if family in ("layer_norm", "softmax") else "channels_last",
        batch=batch,
        dtype=dtype,
        training=training,
    )


def _case(name, shape, make, moved, batch, dtype, training, **fields):
    family = name.split("/")[0]
    return Case(
        name=f"{name}/b{batch}/{SHORT[dtype]}" + ("/train" if training else ""),
        family=family + ("_train" if training else ""),
        make_inputs=lambda generator: (torch.randn(shape, generator=generator),),
        reference=lambda: make(nn),
        ours=lambda: make(_torchext()),
        bytes=moved * SIZE[dtype],
        dtype=dtype,
        batch=batch,
        training=training,
        quick=name in QUICK and (batch, dtype, training) == (1, "float32", False),
        **fields,
    )


def _torchext():
    import torchext.nn

    return torchext.nn
