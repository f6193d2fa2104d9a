"""Blocks of the shipped models trained for twenty steps, beside torch's: the same loss curve.

Two runs in float32 part from an exact one by rounding errors that every step hands on. Measured
over four seeds: losses by up to 1.3 eps, as torch's do, weights and statistics by up to 50, torch's
by 23. So a run may be twice as far from the exact one as torch's, or, where torch was lucky,
EPS_OF_LOSS and EPS_OF_STATE eps of the largest value.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchext

STEPS = 20
EPS_OF_LOSS, EPS_OF_STATE = 8, 64


def _plain(block, activation):
    """torch.nn's modules for a ConvBNAct that adds no residual."""
    return nn.Sequential(copy.deepcopy(block.conv), copy.deepcopy(block.bn), activation)


class BasicBlock(nn.Module):
    """ResNet's, with a strided shortcut."""

    def __init__(self):
        super().__init__()
        block = torchext.nn.ConvBNAct
        self.conv1 = block(8, 16, 3, 2)
        self.conv2 = block(16, 16, 3)
        self.shortcut = block(8, 16, 1, 2, activation=None)

    def forward(self, x):
        return self.conv2(self.conv1(x), self.shortcut(x))


class TorchBasicBlock(nn.Module):
    def __init__(self, ours):
        super().__init__()
        self.conv1 = _plain(ours.conv1, nn.ReLU())
        self.conv2 = _plain(ours.conv2, nn.Identity())
        self.shortcut = _plain(ours.shortcut, nn.Identity())

    def forward(self, x):
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class MobileNetBlock(nn.Module):
    """MobileNetV2's: expanded, filtered, projected, added."""

    def __init__(self):
        super().__init__()
        self.expand = torchext.nn.ConvBNAct(8, 24, 1, activation="relu6")
        self.project = torchext.nn.DepthwiseSeparable(24, 8, activation=("relu6", None))

    def forward(self, x):
        return self.project(self.expand(x), x)


class TorchMobileNetBlock(nn.Module):
    def __init__(self, ours):
        super().__init__()
        self.expand = _plain(ours.expand, nn.ReLU6())
        self.depthwise = _plain(ours.project.depthwise, nn.ReLU6())
        self.pointwise = _plain(ours.project.pointwise, nn.Identity())

    def forward(self, x):
        return self.pointwise(self.depthwise(self.expand(x))) + x


class ViTBlock(nn.Module):
    """ViT's, on the image's pixels as tokens."""

    def __init__(self, layers):
        super().__init__()
        self.norm1, self.norm2 = layers.LayerNorm(8), layers.LayerNorm(8)
        self.attention = layers.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(layers.Linear(8, 32), layers.GELU(), layers.Linear(32, 8))

    def forward(self, x):
        x = x.flatten(2).mT
        tokens = self.norm1(x)
        x = x + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def resnet_blocks():
    ours = BasicBlock()
    return ours, TorchBasicBlock(ours)


def mobilenet_blocks():
    ours = MobileNetBlock()
    return ours, TorchMobileNetBlock(ours)


def vit_blocks():
    ours, theirs = ViTBlock(torchext.nn), ViTBlock(nn)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def train(block, channels_last):
    """(the loss before each step, weights and statistics afterwards), under a head on the mean."""
    torch.manual_seed(1)
    dtype = next(block.parameters()).dtype
    x, target = torch.randn(16, 8, 10, 10).to(dtype), torch.randint(5, (16,))
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    with torch.no_grad():
        width = copy.deepcopy(block)(x).flatten(2).shape[1]
    model = nn.ModuleList([nn.Linear(width, 5).to(dtype), block])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model[0](block(x).flatten(2).mean(2)), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), [*model.state_dict().values()]


def check_close(got, by_torch, exact, eps):
    distances = [(t.double() - exact).abs().max() for t in (got, by_torch)]
    floor = eps * torch.finfo(torch.float32).eps * exact.abs().max()
    assert distances[0] <= max(2 * distances[1], floor)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("make", [resnet_blocks, mobilenet_blocks, vit_blocks])
def test_trains_like_torch(make, channels_last):
    torch.manual_seed(0)
    ours, theirs = make()
    exact = copy.deepcopy(theirs).double()
    runs = (train(block, channels_last) for block in (ours, theirs, exact))
    (got, state), (by_torch, its_state), (expected, exact_state) = runs
    assert expected[-1] < 0.8 * expected[0]  # it learns at all
    check_close(got, by_torch, expected, EPS_OF_LOSS)
    for values in zip(state, its_state, exact_state, strict=True):
        check_close(*values, EPS_OF_STATE)
