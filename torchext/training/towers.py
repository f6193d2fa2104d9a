"""AlexNet's two towers, one on each of two processes: model parallelism as in 2012.

Each has half the channels of every layer. They exchange what the towers of `alexnet_original` share
(Krizhevsky et al., 2012, figure 2): the third convolution and the dense layers read both halves,
the norms two channels beyond their own. Both processes get the same images and return all scores.
"""

import copy

import torch
import torch.distributed as dist
from torch import nn

WIDE = ("conv3", "fc6", "fc7")  # these read both halves
STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


class _Both(torch.autograd.Function):
    """Both halves of the channels, [N, C, ...]; a half's gradient is the sum of what each process
    made of it."""

    @staticmethod
    def forward(ctx, half):
        halves = [torch.empty_like(half, memory_format=torch.contiguous_format) for _ in range(2)]
        dist.all_gather(halves, half.contiguous())
        return torch.cat(halves, 1)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(2, 1)[dist.get_rank()]


class _Sum(torch.autograd.Function):
    """The sum of both processes' parts, of which both go on to the same loss."""

    @staticmethod
    def forward(ctx, part):
        total = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        return grad


class _NormAcross(nn.Module):
    """Local response norm of half the channels, with its neighbours from the other half."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.beyond = norm, norm.size // 2

    def forward(self, x):
        n, rank = self.beyond, dist.get_rank()
        _, last, first, _ = _Both.apply(torch.cat((x[:, :n], x[:, -n:]), 1)).split(n, 1)
        if rank == 0:
            return self.norm(torch.cat((x, first), 1))[:, :-n]
        return self.norm(torch.cat((last, x), 1))[:, n:]


class Tower(nn.Module):
    """This process' half of a two-tower AlexNetOriginal, under the same names.

    model  the same on both processes: its weights are copied
    """

    def __init__(self, model):
        super().__init__()
        if not dist.is_initialized() or dist.get_world_size() != 2:
            raise RuntimeError("Tower: expected a process group of two processes")
        if model.conv2[0].groups != 2:
            raise ValueError("Tower: model: got one tower, expected alexnet_original with two")
        for name in STAGES:
            stage = copy.deepcopy(model.get_submodule(name))
            _halve(stage[0])
            for i, layer in enumerate(stage):
                if isinstance(layer, nn.LocalResponseNorm):
                    stage[i] = _NormAcross(layer)
            self.add_module(name, stage)
        self.fc8 = copy.deepcopy(model.fc8)
        self.fc8.weight = _half(self.fc8.weight, 1)

    def forward(self, x):
        for name in STAGES:
            if name == "fc6":
                x = x.flatten(1)
            x = self.get_submodule(name)(_Both.apply(x) if name in WIDE else x)
        return _Sum.apply(x @ self.fc8.weight.T) + self.fc8.bias

    @torch.no_grad()
    def whole_state_dict(self):
        """The single model's state dict, from both processes, to save or to load there."""
        state = {}
        for name, p in self.named_parameters():
            if name == "fc8.bias":
                state[name] = p.clone()
                continue
            halves = [torch.empty_like(p) for _ in range(2)]
            dist.all_gather(halves, p.detach().contiguous())
            state[name] = torch.cat(halves, 1 if name == "fc8.weight" else 0)
        return state


def _half(parameter, dim=0):
    return nn.Parameter(parameter.detach().chunk(2, dim)[dist.get_rank()].clone())


def _halve(layer):
    """Keeps this process' half of a layer's outputs."""
    layer.weight, layer.bias = _half(layer.weight), _half(layer.bias)
    if isinstance(layer, nn.Linear):
        layer.out_features //= 2
    else:
        layer.out_channels //= 2
        layer.in_channels //= layer.groups
        layer.groups = 1
