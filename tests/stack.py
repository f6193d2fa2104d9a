"""One module with every layer of torchext, and what the whole-stack tests share."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import torchext

PACKAGE = Path(torchext.__file__).parent


class Everything(nn.Module):
    """Every layer that torchext has, taken from `layers` (torchext.nn or torch.nn), among others.

    One more layer there is one more line here.
    """

    def __init__(self, layers, channels=8, classes=5):
        super().__init__()
        self.stem = layers.Conv2d(3, channels, 3, padding=1)
        self.pool = layers.MaxPool2d(3, stride=2, padding=1)
        self.dilated = layers.MaxPool2d(3, stride=1, padding=1, dilation=2, return_indices=True)
        self.mix = layers.Conv2d(channels, channels, 3, padding="same", groups=channels // 2)
        self.along = layers.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.up = layers.ConvTranspose2d(channels, channels, 2, stride=2)
        self.norms = nn.Sequential(
            layers.BatchNorm2d(channels),
            layers.GroupNorm(2, channels),
            layers.LocalResponseNorm(3, alpha=0.1),
        )
        self.flat_norm = layers.BatchNorm1d(channels)
        self.attend = layers.MultiheadAttention(channels, 2, batch_first=True)
        self.sequences = nn.ModuleList(
            layer(channels, channels, batch_first=True)
            for layer in (layers.LSTM, layers.GRU, layers.RNN)
        )
        self.cells = nn.ModuleList(
            cell(channels, channels) for cell in (layers.LSTMCell, layers.GRUCell, layers.RNNCell)
        )
        self.activations = nn.ModuleList(
            [
                layers.ReLU(),
                layers.ReLU6(),
                layers.LeakyReLU(),
                layers.ELU(),
                layers.SiLU(),
                layers.GELU(),
                layers.Sigmoid(),
                layers.Tanh(),
                layers.Hardswish(),
                layers.Hardsigmoid(),
                layers.Softmax(1),
                layers.LogSoftmax(1),
            ]
        )
        self.average = layers.AvgPool2d(
            3, stride=2, padding=1, ceil_mode=True, count_include_pad=False
        )
        self.squeeze = layers.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(
            layers.LayerNorm(4 * channels),
            layers.Dropout(0.0),  # nothing random: the twins must agree
            layers.Linear(4 * channels, classes),
        )

    def forward(self, x):
        x = self.pool(torch.relu(self.stem(x)))
        y, indices = self.dilated(x)
        picked = x.flatten(2).gather(2, indices.flatten(2))  # y again, if the indices are right
        y = self.average(self.up(self.mix(y + 2 * picked.view_as(y))))
        y = y + self.along(self.flat_norm(y.flatten(2))).view_as(y)
        y = self.norms(y)
        tokens = y.flatten(2).transpose(1, 2)
        y = y + self.attend(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(y.shape)
        few = tokens[:, :3]
        for layer in self.sequences:
            few = layer(few)[0]
        long_term, gated, plain = self.cells
        h = plain(gated(long_term(few[:, -1])[0]))
        y = y + h[:, :, None, None]
        y = sum(activation(y) for activation in self.activations)
        return self.head(self.squeeze(y).flatten(1))


def make_twins(**kwargs):
    """(ours, theirs): the module from torchext.nn and from torch.nn, with the same weights."""
    torch.manual_seed(0)
    ours, theirs = Everything(torchext.nn, **kwargs), Everything(torch.nn, **kwargs)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(module, x, loss=torch.Tensor.sum):
    """The module's output, and all gradients of its loss: of the parameters by name, then of x."""
    x = x.detach().requires_grad_()
    y = module(x)
    parameters = [p for _, p in sorted(module.named_parameters())]
    return y, torch.autograd.grad(loss(y), [*parameters, x])


def run_python(*arguments, status=0, path=PACKAGE.parent, **environment):
    """Runs a fresh interpreter that imports torchext from `path`; what it writes: (stdout, stderr).

    Another exit status than `status` (a crash, say) fails the test, with the child's words.
    """
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(path)} | environment,
        cwd=path,
        capture_output=True,
        text=True,
        timeout=300,  # so that a hang is a failure: the slowest child takes some 10 s
    )
    assert process.returncode == status, f"exit status {process.returncode}\n{process.stderr}"
    return process.stdout, process.stderr
