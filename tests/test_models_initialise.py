"""First weights by name: their variances, and what they do to signals in deep networks."""

import pytest
import torch
from torch import nn

from torchext import models
from torchext import nn as tn

VARIANCES = {
    "zero": lambda fan_in, fan_out: 0,
    "small_random": lambda fan_in, fan_out: 1e-4,
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, fan_out: 2 / fan_in,
}
LAYERS = [
    # layer, {parameter: (parts, inputs of an output, outputs of an input)}
    (tn.Linear(150, 200), {"weight": (1, 150, 200)}),
    (tn.Conv2d(40, 60, 3), {"weight": (1, 40 * 9, 60 * 9)}),
    (tn.Conv2d(40, 60, 3, groups=2), {"weight": (1, 20 * 9, 30 * 9)}),
    (tn.Conv1d(64, 64, 5, groups=64), {"weight": (1, 5, 5)}),
    (tn.ConvTranspose2d(40, 60, 3), {"weight": (1, 40 * 9, 60 * 9)}),
    (tn.LSTM(50, 90), {"weight_ih_l0": (4, 50, 90), "weight_hh_l0": (4, 90, 90)}),
    (tn.LSTM(50, 90, proj_size=30), {"weight_hh_l0": (4, 30, 90), "weight_hr_l0": (1, 90, 30)}),
    (tn.GRU(50, 90, 2), {"weight_ih_l0": (3, 50, 90), "weight_ih_l1": (3, 90, 90)}),
    (tn.RNN(50, 90), {"weight_ih_l0": (1, 50, 90)}),
    (tn.GRUCell(50, 90), {"weight_ih": (3, 50, 90)}),
    (tn.MultiheadAttention(60, 4), {"in_proj_weight": (3, 60, 60), "out_proj.weight": (1, 60, 60)}),
    (tn.MultiheadAttention(60, 4, kdim=90, vdim=60), {"k_proj_weight": (1, 90, 60)}),
]
each_how = pytest.mark.parametrize("how", VARIANCES)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@each_how
@pytest.mark.parametrize(
    ("layer", "weights"), LAYERS, ids=[f"{type(m).__name__}-{i}" for i, (m, _) in enumerate(LAYERS)]
)
def test_variances(how, layer, weights):
    """To five standard deviations of a sample's variance, sqrt(2 / n)."""
    assert models.initialise(layer, how) is layer
    for name, (parts, *fans) in weights.items():
        expected = VARIANCES[how](*fans)
        for matrix in layer.get_parameter(name).detach().chunk(parts):
            error = (matrix.square().mean() - expected).abs()
            assert error <= 5 * (2 / matrix.numel()) ** 0.5 * expected
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            assert not parameter.any()


@each_how
def test_every_layer_of_a_model(how):
    """And no norm, no embedding."""
    model = models.resnet18(num_classes=10)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    models.initialise(model, how)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert not torch.equal(module.weight, before[f"{name}.weight"])
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, before[f"{name}.weight"])
    tagger = models.Tagger(8, 4, vocabulary=5)
    embedding = tagger.encoder.embed.weight.clone()
    models.initialise(tagger, how)
    assert torch.equal(tagger.encoder.embed.weight, embedding)


def signals(activation, how, depth=20, width=400):
    """(variances of each layer's activations, mean squares of the gradients there)"""
    model = models.mlp(in_features=width, hidden=(width,) * depth, activation=activation)
    models.initialise(model, how)
    x = torch.randn(64, width, requires_grad=True)
    _, maps = model.forward_intermediates(x)
    grads = torch.autograd.grad(maps[-1], maps[1:-1], torch.randn_like(maps[-1]))
    return [m.square().mean().item() for m in maps[1:]], [g.square().mean().item() for g in grads]


@pytest.mark.parametrize(
    ("activation", "how", "factor"), [("tanh", "xavier", 30), ("relu", "he", 4)]
)
def test_signals_live(activation, how, factor):
    """tanh's fall like 1 / (2 * depth), since it is less than its argument."""
    for sizes in signals(activation, how):
        assert max(sizes) < factor * min(sizes)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_signals_die_of_small_weights(activation):
    activations, gradients = signals(activation, "small_random")
    assert activations[-1] < 1e-20 * activations[0]
    assert gradients[0] < 1e-20 * gradients[-1]


def test_relu_halves_what_xavier_keeps():
    (first, *_, last), _ = signals("relu", "xavier")
    assert 1 / 4 < last / first / 2**-19 < 4


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_residual_blocks_start_as_the_identity(name, shortcut):
    model = models.initialise(
        models.get_model(name, shortcut=shortcut), "zero_init_residual"
    ).eval()
    x = torch.randn(1, 3, 32, 32)
    *_, last = model.stages(x)
    blocks = [block for layer in list(model.children())[4:8] for block in layer]
    skipped = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    for block in blocks:
        if block.downsample is not None:
            skipped = block.downsample(skipped)
        skipped = skipped.relu()
    assert torch.equal(last, skipped)


def test_zero_init_residual_of_the_builder_is_the_same():
    torch.manual_seed(1)
    built = models.resnet50(zero_init_residual=True)
    torch.manual_seed(1)
    changed = models.initialise(models.resnet50(), "zero_init_residual")
    for name, x in built.state_dict().items():
        assert torch.equal(x, changed.state_dict()[name])


@pytest.mark.parametrize(
    ("model", "how", "message"),
    [
        ("mlp", "random", "initialise: how: got 'random', expected one of zero, small_random"),
        ("mlp", "zero_init_residual", "got MLP, expected one with residual blocks"),
        ("plain18", "zero_init_residual", "got ResNet, expected one with residual blocks"),
    ],
)
def test_bad_arguments(model, how, message):
    with pytest.raises(ValueError, match=message):
        models.initialise(models.get_model(model), how)
