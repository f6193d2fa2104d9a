"""What the transformers share: sequences of blocks, and what is in a block."""

import torch
from torch import nn

from .. import nn as tn
from ..nn._whole import keep_whole
from ._model import Model


class Transformer(Model):
    """A model whose blocks are in `Blocks`, and which loads state dicts with other names too."""

    def set_grad_checkpointing(self, enable=True):
        super().set_grad_checkpointing(enable)
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def converted(self, state):
        """A state dict with this model's names, from one that may have another library's."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict, prefix, *args):
        mine = [name for name in state_dict if name.startswith(prefix)]
        state = self.converted({name.removeprefix(prefix): state_dict.pop(name) for name in mine})
        state_dict.update({prefix + name: x for name, x in state.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


class Blocks(nn.Sequential):
    """Blocks, of which each keeps nothing of what lies within for the gradient if so asked."""

    grad_checkpointing = False
    through = Model.through

    def each(self, x):
        for block in self:
            x = self.through(block, x)
            yield x

    def forward(self, x):
        for block in self:
            x = self.through(block, x)
        return x


class MLP(nn.Sequential):
    """torchvision's, with the initial values that all its transformers give it."""

    def __init__(self, channels, hidden, dropout):
        super().__init__(
            tn.Linear(channels, hidden),
            tn.GELU(),
            tn.Dropout(dropout),
            tn.Linear(hidden, channels),
            tn.Dropout(dropout),
        )
        for layer in (self[0], self[3]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)


def rising(last, count):
    """So many probabilities from 0 to the last: deeper blocks are left out more often."""
    return (last * i / max(count - 1, 1) for i in range(count))


class StochasticDepth(nn.Module):
    """The input, but zeros for some rows of the batch, each with probability p."""

    def __init__(self, p):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"StochasticDepth: p: got {p}, expected a probability")
        self.p = p

    def forward(self, input):
        if not self.training or self.p == 0:
            return input
        kept = input.new_empty(input.shape[0], *[1] * (input.dim() - 1)).bernoulli_(1 - self.p)
        return input * (kept / (1 - self.p) if self.p < 1 else kept)

    def extra_repr(self):
        return f"p={self.p}"


class Permute(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return torch.permute(x, self.dims)


for _module in (MLP, StochasticDepth, Permute):  # so does torchvision when it names nodes
    keep_whole(_module)
