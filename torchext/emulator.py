"""The CUDA kernels, run on a CPU by a machine that finds their bugs and counts what they cost.

Built on request (TORCHEXT_EMULATOR=1), for tests: docs/cuda-without-a-gpu.md. Its ops have the
namespace torch.ops.torchext_emu.
"""

import contextlib
import ctypes
import functools
import json
from dataclasses import dataclass

import torch

from . import _load
from .ops._op import OPS, register

NAMESPACE = "torchext_emu"


@functools.cache
def why_not():
    """Why it can't run here; "" if it can. Loads it."""
    reason = _load.load("emulator")
    if not reason:
        for op in OPS.values():
            register(op, NAMESPACE)
    return reason


@functools.cache
def _library():
    if why_not():
        raise RuntimeError(f"torchext: emulator: {why_not()}")
    library = ctypes.CDLL(str(_load.library_directory() / "libtorchext_emulator.so"))
    library.torchext_emulator_take_profile.restype = ctypes.c_char_p
    return library


def has(op):
    """Whether there is a CUDA kernel of the op."""
    known = not why_not() and op in OPS
    return known and torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", "CPU")


class Settings(ctypes.Structure):
    """How launches run; csrc/emulator/settings.h says what each one means."""

    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("workers", ctypes.c_int32),
        ("races", ctypes.c_int32),
        ("late_copies", ctypes.c_int32),
        ("counts", ctypes.c_int32),
        ("multiprocessors", ctypes.c_int32),
        ("blocks_at_once", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int32),
    )

    @classmethod
    def current(cls):
        settings = cls()
        _library().torchext_emulator_get_settings(ctypes.byref(settings))
        return settings

    def apply(self):
        _library().torchext_emulator_set_settings(ctypes.byref(self))


@contextlib.contextmanager
def settings(**changes):
    """`with settings(seed=7): ...`: other settings for a while."""
    before, changed = Settings.current(), Settings.current()
    for name, value in changes.items():
        if name not in dict(Settings._fields_):
            raise ValueError(
                f"settings: got {name!r}, expected one of {', '.join(dict(Settings._fields_))}"
            )
        setattr(changed, name, value)
    changed.apply()
    try:
        yield
    finally:
        before.apply()


@dataclass(frozen=True)
class Line:
    """What one line of a kernel asked of memory, summed over all its warps."""

    kernel: str
    line: str
    shared: bool
    writes: bool
    bytes: int  # of a lane's access
    matrix_row: bool
    requests: int
    lanes: int
    sectors: int
    fewest_sectors: int
    wavefronts: int
    fewest_wavefronts: int


@dataclass(frozen=True)
class Profile:
    """What the launches of one call cost.

    `necessary`: bytes of the tensors that go in and come out; `moved`: of the sectors that the
    launches read and wrote, each once per launch, as if L2 kept everything meanwhile; `flops`: of
    tensor cores.
    """

    lines: tuple
    kernels: tuple
    necessary: int
    moved: int
    flops: int

    def __str__(self):
        head = f"{'line':34} {'space':6} {'':5} {'bytes':>5} {'requests':>9} {'lanes':>6}"
        rows = [f"{head} {'sectors':>9} {'ideal':>9} {'wavefronts':>10} {'ideal':>9}"]
        for x in self.lines:
            kind = "ldsm" if x.matrix_row else "store" if x.writes else "load"
            space = "shared" if x.shared else "global"
            rows.append(
                f"{x.line[-34:]:34} {space:6} {kind:5} {x.bytes:5} {x.requests:9}"
                f" {x.lanes / x.requests:6.1f} {x.sectors or '':>9} {x.fewest_sectors or '':>9}"
                f" {x.wavefronts or '':>10} {x.fewest_wavefronts or '':>9}"
            )
        share = self.moved / self.necessary if self.necessary else 0
        rows.append(
            f"{len(self.kernels)} launches: {self.moved} bytes moved, {self.necessary} necessary"
            f" ({share:.2f}); {self.flops} operations of tensor cores"
        )
        return "\n".join(rows)


def profile(op, *args):
    """Runs torch.ops.torchext_emu.<op>(*args) and counts. Prints as a table."""
    if not has(op):
        raise ValueError(f"profile: got {op!r}, expected an op that has a CUDA kernel")
    with settings(counts=1):
        _library().torchext_emulator_take_profile()
        result = getattr(getattr(torch.ops, NAMESPACE), op)(*args)
        launches = json.loads(_library().torchext_emulator_take_profile())
    results = result if isinstance(result, (tuple, list)) else (result,)
    tensors = [x for x in (*args, *results) if isinstance(x, torch.Tensor)]
    return Profile(
        lines=_merged(launches),
        kernels=tuple(launch["kernel"] for launch in launches),
        necessary=sum(x.numel() * x.itemsize for x in tensors),
        moved=sum(launch["read"] + launch["written"] for launch in launches),
        flops=sum(launch["products"] for launch in launches),
    )


def _merged(launches):
    """Lines of all launches; a compiler makes several calls of some."""
    found = {}
    for launch in launches:
        for line in launch["lines"]:
            key = (launch["kernel"], line["line"], line["shared"], line["writes"], line["bytes"])
            known = found.setdefault(key, dict.fromkeys(_SUMS, 0) | {"matrix_row": False})
            known["matrix_row"] |= bool(line["matrix_row"])
            for name in _SUMS:
                known[name] += line[name]
    return tuple(
        Line(kernel, line, bool(shared), bool(writes), size, **rest)
        for (kernel, line, shared, writes, size), rest in sorted(found.items())
    )


_SUMS = (
    "requests",
    "lanes",
    "sectors",
    "fewest_sectors",
    "wavefronts",
    "fewest_wavefronts",
)
