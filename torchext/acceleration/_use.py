"""`with torchext.use():` user code's functional calls run torchext's kernels."""

import torch
from torch.overrides import TorchFunctionMode

from ..nn import functional as ours

# Whose functions, and which of them have the signatures of ours: torch.batch_norm, say, has not.
_RECURRENT = [
    f"{cell}{more}" for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu") for more in ("", "_cell")
]
_NAMES = {
    torch.nn.functional: [n for n in vars(ours) if n != "dropout" and not n.startswith("_")],
    torch: ["conv1d", "conv2d", "conv_transpose2d", "relu", "sigmoid", "tanh"],
    torch._VF: _RECURRENT,
}
FUNCTIONS = {
    getattr(where, name): getattr(ours, name)
    for where, names in _NAMES.items()
    for name in names
    if callable(getattr(ours, name)) and hasattr(where, name)
}


class use(TorchFunctionMode):  # noqa: N801 - it reads as a statement
    """A context, of one thread, in which torch's functions are torchext's."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return FUNCTIONS.get(function, function)(*args, **(kwargs or {}))
