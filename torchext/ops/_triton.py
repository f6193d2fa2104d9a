"""The ops on Triton: for CUDA tensors where the CUDA library has no kernel, or by choice.

Triton and the kernels are imported at an op's first call, never by `import torchext`. Where Triton
is not installed, or lacks an op, the op's decomposition runs, with its notice.
"""

import functools
import importlib.util
import os
import warnings

import torch

from .. import _load
from ._op import OPS, library_of, register

TESTED = "torchext_triton"


@functools.cache
def serves_cuda(op):
    """Whether CUDA tensors are Triton's: where the op has no CUDA kernel, or by choice."""
    if _load.why_not_loaded["cpu"] or not torch.version.cuda:
        return False
    wanted = os.environ.get("TORCHEXT_BACKEND") == "triton" or (
        not torch._C._dispatch_has_kernel_for_dispatch_key(f"torchext::{op}", "CUDA")
    )
    return wanted and _has_triton()


@functools.cache
def _has_triton():
    return importlib.util.find_spec("triton") is not None


def beside_cuda(name):
    """The op by Triton, where the CUDA library has it too; None where it is the only one."""
    if not _has_triton() or serves_cuda(name):
        return None
    return _lazy(OPS[name])


def _lazy(op):
    """The op's host function, imported when it is first called."""

    @functools.cache
    def kernel():
        from ..triton_kernels import KERNELS

        return KERNELS.get(op.name, op.fallback)

    def call(*args):
        with torch.cuda.device_of(args[0]):  # Triton launches on the current device
            return kernel()(*args)

    call.__name__ = f"triton_{op.name}"
    return call


def register_for_cuda():
    """Called once, when every op is known."""
    choice = os.environ.get("TORCHEXT_BACKEND", "")
    if choice not in ("", "cuda", "triton"):
        warnings.warn(
            f"torchext: TORCHEXT_BACKEND: got {choice!r}, expected cuda or triton; using cuda",
            stacklevel=2,
        )
    with warnings.catch_warnings():  # torch 2.10 warns of an override that was asked for
        warnings.simplefilter("ignore")
        for op in filter(lambda op: serves_cuda(op.name), OPS.values()):
            library_of("torchext").impl(op.name, _lazy(op), "CUDA", allow_override=True)


@functools.cache
def register_for_tests():
    """Defines namespace torchext_triton: the same ops on Triton, its interpreter on the CPU.

    The interpreter runs if TRITON_INTERPRET=1 is set before Triton is first imported.
    """
    library = library_of(TESTED)
    for op in OPS.values():
        schema = str(getattr(torch.ops.torchext, op.name).default._schema)
        library.define(schema.removeprefix("torchext::"))
        for key in ("CPU", "CUDA"):
            library.impl(op.name, _lazy(op), key)
        register(op, TESTED)
