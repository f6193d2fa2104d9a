"""Hand-written CPU, CUDA and Triton kernels for PyTorch vision and sequence models.

Importing never fails for want of a compiled library: `torchext info` tells what loaded and why the
rest did not, and what has no kernel runs as plain PyTorch, with a notice.
"""

import importlib

from . import _compile_cache, _load
from ._fallback import FallbackWarning
from ._version import __version__

_load.load_libraries(__path__)
_compile_cache.tag()

from . import nn, ops  # noqa: E402  (the ops register what the libraries define)
from ._explain import explain  # noqa: E402
from .ops._lazy import when_imported  # noqa: E402

__all__ = [
    "FallbackWarning",
    "__version__",
    "accelerate",
    "explain",
    "models",
    "nn",
    "ops",
    "refresh",
    "restore",
    "use",
]

_LATER = {  # name: where it is; what would make the import twice as long, and not everybody needs
    "accelerate": "acceleration",
    "models": "",
    "refresh": "acceleration",
    "restore": "acceleration",
    "use": "acceleration",
}


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not _LATER[name]:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__():
    return sorted(globals().keys() | _LATER)


def _backend(graph, example_inputs):
    from .acceleration._backend import backend

    return backend(graph, example_inputs)


when_imported(
    "torch._dynamo.backends.registry",
    lambda registry: registry.register_backend(_backend, name="torchext"),
)
