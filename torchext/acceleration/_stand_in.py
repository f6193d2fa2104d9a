"""What stands for `forward` in a copy of a model, whatever it does with a call."""

import inspect
from types import MethodType

from torch.nn.modules.module import _has_any_global_hook
from torch.utils.hooks import RemovableHandle

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class StandIn:
    """`model` is the copy, `source` the original. Pickles and copies keep the attributes of `KEPT`;
    `_forget` makes the others anew."""

    KEPT = ("model", "source", "own", "kind")

    def __init__(self, model, source):
        self.model, self.source = model, source
        self.own = model.__dict__.get("forward")  # where the user has put another one in
        self.kind = type(model)
        self._hooks_seen = self._hooked = None

    def __getstate__(self):
        return {name: vars(self)[name] for name in self.KEPT}

    def __setstate__(self, state):
        vars(self).update(state)
        self._hooks_seen = self._hooked = None
        self._forget()

    def own_forward(self, *args, **kwargs):
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.model).forward(self.model, *args, **kwargs)

    # torch.export and whoever else looks at a model's forward sees its own.

    @property
    def __signature__(self):
        return inspect.signature(self.own or MethodType(type(self.model).forward, self.model))

    @property
    def __code__(self):
        return (self.own or type(self.model).forward).__code__

    def hooked(self):
        """The names of inner modules with hooks, which only the model's own forward calls."""
        # Somebody has registered one somewhere, or may have removed it.
        if self._hooked or RemovableHandle.next_id != self._hooks_seen:
            self._hooked = [n for n, m in self.model.named_modules() if n and _has_hooks(m)]
            self._hooked += ["all modules"] if _has_any_global_hook() else []
            self._hooks_seen = RemovableHandle.next_id
        return self._hooked


def _has_hooks(module):
    return any(getattr(module, name, None) for name in _HOOKS)
