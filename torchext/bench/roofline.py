"""The yardsticks: copy bandwidth at a case's own footprint, and peak multiply-adds.

They are measured in the same run as the contenders, in a worker that takes turns with them. On a
CPU by roofline.c where there is a C compiler; else, and on a GPU, by torch's copy and matmul.
"""

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

# A call does what takes 0.1 ms at 100 GB/s or GFLOP/s: entering a parallel region is then nothing.
PIECE_S, ASSUMED_RATE = 1e-4, 1e11
MATRIX = {"cpu": 1024, "cuda": 8192}


def compile_native():
    """roofline.c as a ctypes library; None without a C compiler that can build it."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("g++")
    source = Path(__file__).with_suffix(".c")
    if not compiler or not source.is_file():
        return None
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "roofline.so"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC"]
        command = [compiler, "-x", "c", *flags, source, "-o", output]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        library = ctypes.CDLL(str(output))
    for function in (library.flops_per_step_f32, library.flops_per_step_bf16):
        function.restype = ctypes.c_double
    return library


class Yardsticks:
    """Each yardstick is (call, amount): one call moves `amount` bytes or does `amount` FLOPs."""

    def __init__(self):
        self.native = compile_native()

    def build(self, case, threads):
        """{"copy": ..., "peak": ...}, of which a case that has no roofline needs neither."""
        if not case.bytes:
            return {}
        if case.device == "cuda" or not self.native:
            return {"copy": _torch_copy(case), "matmul": _torch_matmul(case)}
        found = {
            "copy": self._copy(case.bytes // 2, threads),
            "peak": self._peak("bf16" if case.dtype == "bfloat16" else "f32", threads),
        }
        if case.autotuned:  # matrix products may run on units that roofline.c does not use (AMX)
            found["matmul"] = _torch_matmul(case)
        return found

    def _copy(self, half, threads):
        source = torch.randint(0, 256, (half,), dtype=torch.uint8)
        target = torch.empty_like(source)
        repeats = math.ceil(PIECE_S * ASSUMED_RATE / (2 * half))

        def call():  # the pointers stay valid: the closure holds the tensors
            self.native.copy(
                ctypes.c_void_p(target.data_ptr()),
                ctypes.c_void_p(source.data_ptr()),
                ctypes.c_size_t(half),
                ctypes.c_long(repeats),
                threads,
            )

        return call, 2 * half * repeats

    def _peak(self, kind, threads):
        per_step = getattr(self.native, f"flops_per_step_{kind}")()
        steps = math.ceil(PIECE_S * ASSUMED_RATE / per_step)
        multiply_add = getattr(self.native, f"multiply_add_{kind}_peak")
        numbers = ctypes.c_float(0.5), ctypes.c_float(0.25)  # sums converge: no inf, no denormals

        def call():
            multiply_add(*numbers, ctypes.c_long(steps), threads)

        return call, per_step * steps * threads


def _torch_copy(case):
    source = torch.randint(0, 256, (case.bytes // 2,), dtype=torch.uint8).to(case.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * (case.bytes // 2)


def _torch_matmul(case):
    n = MATRIX[case.device]
    a, b = torch.randn(2, n, n).to(case.device, getattr(torch, case.dtype))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * n**3
