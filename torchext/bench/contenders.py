"""The contenders. Each is a small class: what it needs, what it can run, how it builds the call.

To add one, write a class and list it in CONTENDERS. One whose version() raises AbsentError is
listed as absent in every result.
"""

import os
import shutil
import typing

import torch

from .case import bind, prepare


class AbsentError(Exception):
    """The contender can't run here; the text says why."""


class Contender:
    """`name` stands in tables; `env` is set for its worker; `ours` marks torchext's own."""

    name = ""
    env: typing.ClassVar = {}
    ours = False

    def version(self, device):
        """What runs, in a word; raises AbsentError."""
        return f"torch {torch.__version__}"

    def applies(self, case):
        """Whether this case makes sense; a contender that does not apply is not listed at all."""
        return True

    def build(self, case):
        """The zero-argument call to time."""
        raise NotImplementedError


class Torchext(Contender):
    name = "torchext"
    ours = True
    # A case without a kernel must fail, not pass as PyTorch's own op.
    env: typing.ClassVar = {"TORCHEXT_FALLBACK": "error", "TORCHEXT_DISABLE": "0"}

    def version(self, device):
        import torchext
        from torchext import _load

        if _load.why_not_loaded[device]:
            raise AbsentError(_load.why_not_loaded[device])
        return f"torchext {torchext.__version__}"

    def build(self, case):
        return bind(case, prepare(case, case.ours(), case.layout), case.layout)


class TorchextTriton(Torchext):
    """The Triton kernels in place of the CUDA library's."""

    name = "torchext_triton"
    env: typing.ClassVar = Torchext.env | {"TORCHEXT_BACKEND": "triton"}

    def version(self, device):
        try:
            import triton
        except ImportError:
            raise AbsentError("triton is not installed") from None
        return f"{super().version('cpu')}, triton {triton.__version__}"

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
            raise AbsentError("torch.compile finds no C++ compiler")
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
