"""The models of the papers: their published counts, and torch.nn's layers in their place."""

import pytest
import torch
from against_torch import check_like, same_state
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet as theirs

from torchext import models
from torchext import nn as tn


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def multiplications(model, *shape):
    """Those of one image."""
    model = model.to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


def on_meta(name, **arguments):
    with torch.device("meta"):
        return models.get_model(name, **arguments)


CLASSIFIERS = [
    # name, arguments, parameters, multiplications
    ("lenet5", {}, 61_706, 416_520),
    ("alexnet_original", {}, 60_965_224, 724_406_816),
    ("alexnet_original", {"towers": 1}, 62_378_344, 1_135_256_096),
    ("nin", {}, 966_986, 222_486_528),
    ("mlp", {}, 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10, 784 * 256 + 256 * 128 + 1280),
    ("slp", {}, 7850, 7840),
    ("slp", {"in_features": 64}, 650, 640),
    ("logistic_regression", {"in_features": 64, "num_classes": 3}, 195, 192),
]


@pytest.mark.parametrize(("name", "arguments", "weights", "products"), CLASSIFIERS)
def test_counts(name, arguments, weights, products):
    model = on_meta(name, **arguments)
    assert parameters(model) == weights
    assert multiplications(model, *model.input_size) == products


def test_first_convolution_of_alexnet():
    convolution = on_meta("alexnet_original").conv1[0]
    assert parameters(convolution) == 34_944
    assert multiplications(convolution, 3, 227, 227) == 105_415_200


def test_inception_module_saves():
    """GoogLeNet's first, of 28 x 28 pixels with 192 channels."""
    naive = models.InceptionNaive(192, 64, 128, 32)
    reduced = models.Inception(192, 64, 96, 128, 16, 32, 32)
    x = torch.randn(1, 192, 28, 28)
    assert naive(x).shape == (1, 64 + 128 + 32 + 192, 28, 28)
    assert reduced(x).shape == (1, 64 + 128 + 32 + 32, 28, 28)
    assert multiplications(naive.branch3, 192, 28, 28) == 120_422_400
    reduction, convolution = reduced.branch3
    assert multiplications(reduction, 192, 28, 28) == 2_408_448
    assert multiplications(convolution, 16, 28, 28) == 10_035_200
    assert multiplications(reduced.branch3, 192, 28, 28) == 12_443_648


@pytest.mark.parametrize(
    ("name", "arguments", "weights", "products"),
    [
        ("plain18", {}, 11_515_688, 1_794_805_760),
        ("plain34", {}, 21_623_848, 3_644_493_824),
        ("resnet34", {"shortcut": "A"}, 21_623_848, 3_644_493_824),
        ("resnet34", {}, 21_797_672, 3_663_761_408),
        ("resnet34", {"shortcut": "C"}, 22_716_840, 3_830_747_136),
    ],
)
def test_counts_with_shortcuts(name, arguments, weights, products):
    model = on_meta(name, **arguments)
    assert parameters(model) == weights
    assert multiplications(model, 3, 224, 224) == products


def test_blocks_multiply_alike():
    """18 HWC^2 with two filters of 3 x 3, 17 HWC^2 with one between 4C and C and back."""
    c, h, w = 16, 6, 5
    basic, bottleneck = models.resnet.BasicBlock(c, c), models.resnet.Bottleneck(4 * c, c)
    assert multiplications(basic, c, h, w) == 18 * h * w * c**2
    assert multiplications(bottleneck, 4 * c, h, w) == 17 * h * w * c**2


def plain_lenet5():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


class PapersNorm(nn.Module):
    """a / (k + alpha * the sum of a^2 over n channels) ^ beta"""

    def forward(self, a):
        padded = nn.functional.pad(a.square(), (0, 0, 0, 0, 2, 2))
        sums = sum(padded[:, i : i + a.shape[1]] for i in range(5))
        return a / (2 + 1e-4 * sums) ** 0.75


def plain_conv(channels, out, kernel, groups=1):
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups), nn.ReLU()


def plain_alexnet_original(towers):
    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), PapersNorm(), nn.MaxPool2d(3, 2)),
        *(*plain_conv(96, 256, 5, towers), PapersNorm(), nn.MaxPool2d(3, 2)),
        *(*plain_conv(256, 384, 3), *plain_conv(384, 384, 3, towers)),
        *(*plain_conv(384, 256, 3, towers), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 10)),
    )


def plain_nin():
    return nn.Sequential(
        *(*plain_conv(3, 192, 5), *plain_conv(192, 160, 1), *plain_conv(160, 96, 1)),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        *(*plain_conv(96, 192, 5), *plain_conv(192, 192, 1), *plain_conv(192, 192, 1)),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        *(*plain_conv(192, 192, 3), *plain_conv(192, 192, 1), *plain_conv(192, 10, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def plain_mlp():
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 30), nn.Tanh()),
        *(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 10)),
    )


MLP = {"in_features": 64, "hidden": (30, 20), "activation": "tanh"}


@pytest.mark.parametrize(
    ("name", "arguments", "plain", "x", "terms"),
    [
        ("lenet5", {}, plain_lenet5, (3, 1, 32, 32), 3 * 28 * 28),
        ("nin", {}, plain_nin, (1, 3, 32, 32), 96 * 25),
        ("mlp", MLP, plain_mlp, (5, 1, 8, 8), 64),
    ],
)
def test_like_torch(name, arguments, plain, x, terms):
    model = models.get_model(name, **arguments).eval()
    kinks = name == "nin"
    check_like(same_state(plain(), model), model, torch.randn(x), terms=terms, kinks=kinks)


def test_alexnet_original_like_torch():
    model = models.alexnet_original(num_classes=10).eval()
    plain = plain_alexnet_original(towers=2)
    narrow = (9216, 32), (32, 32), (32, 10)  # the wide ones would take most of the time
    model.fc6[0], model.fc7[0], model.fc8 = (tn.Linear(*sizes) for sizes in narrow)
    plain[-7], plain[-4], plain[-1] = (nn.Linear(*sizes) for sizes in narrow)
    x = 100 * torch.randn(1, 3, 227, 227)  # as large as pixels: the norms have something to do
    check_like(same_state(plain, model), model, x, terms=9216, kinks=True)


class SideBySide(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*layers) for layers in branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


@pytest.mark.parametrize(
    ("module", "branches"),
    [
        (
            models.InceptionNaive(6, 3, 4, 5),
            [
                plain_conv(6, 3, 1),
                plain_conv(6, 4, 3),
                plain_conv(6, 5, 5),
                [nn.MaxPool2d(3, 1, 1)],
            ],
        ),
        (
            models.Inception(6, 3, 2, 4, 2, 5, 7),
            [
                plain_conv(6, 3, 1),
                [*plain_conv(6, 2, 1), *plain_conv(2, 4, 3)],
                [*plain_conv(6, 2, 1), *plain_conv(2, 5, 5)],
                [nn.MaxPool2d(3, 1, 1), *plain_conv(6, 7, 1)],
            ],
        ),
    ],
    ids=["naive", "reduced"],
)
def test_inception_like_torch(module, branches):
    x = torch.randn(2, 6, 9, 8)
    check_like(same_state(SideBySide(*branches), module), module, x, terms=150)


class PlainBlock(theirs.BasicBlock):
    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class Padded(nn.Module):
    def __init__(self, more, stride):
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x):
        x = nn.functional.max_pool2d(x, 1, self.stride)
        return torch.cat([x, x.new_zeros(len(x), self.more, *x.shape[2:])], 1)


def plain_resnet(block, layers, shortcut):
    """torchvision's, its shortcuts replaced."""
    net = theirs.ResNet(block, layers)
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        for part in layer:
            channels, stride = part.conv1.in_channels, part.stride
            out = part.conv2.out_channels * part.expansion
            if shortcut is None:
                part.downsample = None
            elif shortcut == "A" and part.downsample is not None:
                part.downsample = Padded(out - channels, stride)
            elif shortcut == "C" and part.downsample is None:
                projection = nn.Conv2d(channels, out, 1, stride, bias=False)
                part.downsample = nn.Sequential(projection, nn.BatchNorm2d(out))
    return net


SHORTCUTS = [
    ("plain18", {}, PlainBlock, (2, 2, 2, 2), None),
    ("resnet18", {"shortcut": "A"}, theirs.BasicBlock, (2, 2, 2, 2), "A"),
    ("resnet18", {"shortcut": "C"}, theirs.BasicBlock, (2, 2, 2, 2), "C"),
    ("resnet50", {"shortcut": "A"}, theirs.Bottleneck, (3, 4, 6, 3), "A"),
]


@pytest.mark.parametrize(("name", "arguments", "block", "layers", "shortcut"), SHORTCUTS)
def test_shortcuts_like_torchvision(name, arguments, block, layers, shortcut):
    model = models.get_model(name, **arguments)
    net = same_state(plain_resnet(block, layers, shortcut), model)
    check_like(net, model, torch.randn(4, 3, 64, 64), terms=4 * 32 * 32, kinks=True)


def test_plain_is_resnet_without_shortcuts():
    """Option A's parameters fit it by name."""
    residual, plain = models.resnet34(shortcut="A"), on_meta("plain34")
    assert {k: v.shape for k, v in residual.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


@pytest.mark.parametrize("name", ["lenet5", "nin", "alexnet_original", "plain18", "mlp", "slp"])
def test_methods_of_classifiers(name):
    model = on_meta(name)
    size = getattr(model, "input_size", (3, 224, 224))
    x = torch.empty(2, *size, device="meta")
    last, maps = model.forward_intermediates(x)
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert all(isinstance(model.get_submodule(i["module"]), nn.Module) for i in model.feature_info)
    assert model.forward_head(last, pre_logits=True).shape == (2, model.num_features)
    assert model(x).shape == (2, model.num_classes)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    features = on_meta(name, features_only=True, out_indices=[-1])
    assert [m.shape for m in features(x)] == [last.shape]


@pytest.mark.parametrize("name", ["lenet5", "nin", "alexnet_original", "mlp"])
def test_groups_of_layers(name):
    """timm's decay of the learning rate: a group for each map, and one for what is behind them."""
    manipulate = pytest.importorskip("timm.models._manipulate")
    model = on_meta(name, **{"hidden": [8] * 12} if name == "mlp" else {})
    groups = manipulate.group_parameters(model, model.group_matcher(), reverse=True)
    order = [groups[name] for name, _ in model.named_parameters()]
    assert order == sorted(order)
    for i, info in enumerate(i for i in model.feature_info if i["module"] != "flatten"):
        inside = {g for n, g in groups.items() if n.startswith(info["module"] + ".")}
        assert inside == {i}
    assert groups[f"{model.classifier_name}.weight"] == i + 1


@pytest.mark.parametrize("name", ["nin", "plain18"])
def test_reductions(name):
    model = on_meta(name)
    _, maps = model.forward_intermediates(torch.empty(1, 3, 64, 64, device="meta"))
    assert [64 // m.shape[2] for m in maps] == [i["reduction"] for i in model.feature_info]


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_checkpointing_changes_nothing(name):
    model = models.get_model(name)
    x = torch.randn(2, *model.input_size)
    expected = torch.autograd.grad(model(x).square().sum(), model.parameters())
    model.set_grad_checkpointing()
    got = torch.autograd.grad(model(x).square().sum(), model.parameters())
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("name", ["lenet5", "nin", "mlp", "plain18"])
def test_traces(name):
    model = models.get_model(name).eval()
    x = torch.randn(1, *getattr(model, "input_size", (3, 32, 32)))
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize(
    ("name", "arguments", "rate"),
    [
        ("lenet5", {}, 0.01),
        ("nin", {"dropout": 0.0}, 0.0003),
        ("mlp", {"in_features": 64}, 0.01),
        ("slp", {"in_features": 64}, 0.05),
        ("logistic_regression", {"in_features": 64}, 0.05),
        ("plain18", {"num_classes": 10}, 0.001),
    ],
)
def test_learns(name, arguments, rate):
    """Eight images by heart, each of a colour of its own."""
    model = models.get_model(name, **arguments)
    channels, *size = getattr(model, "input_size", (3, 32, 32))
    x = 2 * torch.randn(8, channels, *(1 for _ in size)) + torch.randn(8, channels, *size)
    classes = torch.arange(8)
    optimiser = torch.optim.Adam(model.parameters(), rate)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(x), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_logistic_regression_starts_from_zero():
    """Its first gradient is known: the mean of (softmax - one-hot) * x."""
    model = models.logistic_regression(in_features=4, num_classes=3)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(model(x), torch.zeros(6, 3))
    nn.functional.cross_entropy(model(x), y).backward()
    expected = (1 / 3 - nn.functional.one_hot(y).float()).T @ x / 6
    torch.testing.assert_close(model.classifier.weight.grad, expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.alexnet_original(towers=3), "alexnet_original: towers: got 3, expected"),
        (lambda: models.resnet18(shortcut="D"), "ResNet: shortcut: got 'D', expected"),
        (lambda: models.mlp(activation="step"), "mlp: activation: got 'step', expected one of"),
        (lambda: models.lenet5()(torch.randn(1, 1, 28, 28)), "got 256 features, expected 400"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        build()
