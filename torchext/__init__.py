"""Hand-written CPU, CUDA and Triton kernels for PyTorch vision and sequence models.

Importing never fails for want of a compiled library: `torchext info` tells what loaded and why the
rest did not, and what has no kernel runs as plain PyTorch, with a notice.
"""

from . import _compile_cache, _load
from ._fallback import FallbackWarning
from ._version import __version__

_load.load_libraries(__path__)
_compile_cache.tag()

from . import models, nn, ops  # noqa: E402  (the ops register what the libraries define)
from ._explain import explain  # noqa: E402
from .acceleration import accelerate, refresh, restore, use  # noqa: E402

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
