"""The contenders. Each is a small class: what it needs, what it can run, how it builds the call.

To add one, write a class and list it in CONTENDERS; a contender whose version() raises Absent is
listed as absent in every result.
"""

import os
import shutil

import torch

from .case import bind, prepare


class Absent(Exception):
    """The contender can't run here; the text says why."""


class Contender:
    """`name` stands in tables; `env` is set for its worker; `ours` marks torchext's own."""

    name = ""
    env: dict = {}  # noqa: RUF012 (constant)
    ours = False

    def version(self, device):
        """What runs, in a word; raises Absent."""
        return f"torch {torch.__version__}"

    def applies(self, case):
        """Whether this case makes sense; a contender that does not apply is not listed at all."""
        return True

    def build(self, case):
        """The zero-argument call to time."""
        raise NotImplementedError


class Torchext(Contender):
    name = "torchext"
    env = {"TORCHEXT_FALLBACK": "error"}  # noqa: RUF012: a case without a kernel must not pass
    ours = True

    def version(self, device):
        import torchext
        from torchext import _load

        if _load.why_not_loaded[device]:
            raise Absent(_load.why_not_loaded[device])
        return f"torchext {torchext.__version__}"

    def build(self, case):
        return bind(case, prepare(case, case.ours(), case.layout), case.layout)


class TorchextTriton(Torchext):
    """The Triton kernels in the CUDA kernels' place."""

    name = "torchext_triton"
    env = Torchext.env | {"TORCHEXT_CUDA_BACKEND": "triton"}

    def version(self, device):
        try:
            import triton
        except ImportError:
            raise Absent("triton is not installed") from None
        return f"{super().version(device)}, triton {triton.__version__}"

    def applies(self, case):
        return case.device == "cuda"


class Eager(Contender):
    name = "eager"
    layout = "contiguous"

    def build(self, case):
        return bind(case, prepare(case, case.reference(), self.layout), self.layout)


class EagerChannelsLast(Eager):
    name = "eager_channels_last"
    layout = "channels_last"

    def applies(self, case):
        return case.layout == "channels_last"


class Compile(Contender):
    """torch.compile in torchext's layout; with constants folded ("freezing") in inference."""

    name = "compile"
    mode = "default"

    def version(self, device):
        compilers = ("g++", "clang++") if device == "cpu" else ("gcc", "cc", "clang")
        if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), *compilers)))):
            raise Absent("torch.compile finds no C++ compiler")
        return super().version(device)

    def build(self, case):
        import torch._inductor.config

        # A fresh start, or the limit on recompilations would turn later cases into eager ones.
        torch._dynamo.reset()
        torch._inductor.config.freezing = not case.training
        function = prepare(case, case.reference(), case.layout)
        compiled = torch.compile(function, fullgraph=True, dynamic=False, mode=self.mode)
        return bind(case, compiled, case.layout)


class CompileMaxAutotune(Compile):
    name = "compile_max_autotune"
    mode = "max-autotune-no-cudagraphs"

    def applies(self, case):
        return case.autotuned or case.device == "cuda"


CONTENDERS = (
    Torchext(),
    TorchextTriton(),
    Eager(),
    EagerChannelsLast(),
    Compile(),
    CompileMaxAutotune(),
)
