"""Gates on the machine code that Triton makes of each of its kernels; no GPU needed.

Every op's host function runs on tensors without data, and its launches are compiled instead: the
gates see the specialisations that a GPU would run. Compiling needs a process of its own, since
this one may have Triton in interpreter mode: this file run as a script.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import gpu_gates
import pytest
from gpu_gates import WIDE_COPY, WIDE_LOAD, WIDE_STORE

ARCHS = (80, 90)
MOST_STACK = 8  # bytes; never touched, but reserved where an exact division may call its slow path

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(not gpu_gates.find_tool("cuobjdump"), reason="no cuobjdump"),
]


@dataclass(frozen=True)
class Limits:
    """What a program of 128 threads may use of an SM."""

    registers: int  # a thread's, of 65,536 an SM
    shared: int  # bytes, of an SM's 164 KB or more


TENSORS = (("float32", "contiguous"), ("float32", "channels_last"), ("bfloat16", "channels_last"))
SIMPLE = Limits(64, 8 * 1024)  # 8 programs an SM, and nearly all of its memory stays an L1 cache
PRODUCT = Limits(255, 48 * 1024)  # tiles kept in registers: 2 programs an SM, operands in flight


@dataclass(frozen=True)
class Launch:
    """An op called for an input of `shape`; `arguments` follow it in its cases.

    wide     the accesses that are 128 bits wide in channels_last
    limits   of its kernels
    tensors  dtypes and layouts
    """

    op: str
    shape: tuple
    arguments: tuple
    wide: tuple = (WIDE_LOAD, WIDE_STORE)
    limits: Limits = SIMPLE
    tensors: tuple = TENSORS


_STEM = (8, 64, 112, 112)
_MAX = ([3, 3], [2, 2], [1, 1], [1, 1], False)
_LARGE = ([13, 13], [1, 1], [6, 6], [1, 1], False)  # loops instead of unrolled taps
_AVERAGE = ([3, 3], [2, 2], [1, 1], False, True, None)


def _conv(shape, weight, *rest, wide, limits):
    """conv2d and its gradients; rest: stride, padding, dilation, groups, activation."""
    arguments = (weight, "br", *rest)
    limits = limits, (*TENSORS, ("float64", "channels_last"))
    yield Launch("conv2d", shape, arguments, wide, *limits)
    yield Launch("conv2d_backward_input", shape, arguments, wide, *limits)
    yield Launch("conv2d_backward_weight", shape, arguments, (), *limits)


_ONE = [1, 1]
_WIDE = (WIDE_LOAD, WIDE_STORE)
_RESNET = (8, 64, 56, 56), (128, 64, 3, 3), [2, 2], [1, 1], _ONE, 1, 1
_RESNET_STEM = (8, 3, 224, 224), (64, 3, 7, 7), [2, 2], [3, 3], _ONE, 1, 0  # no channels to load
_MOBILENET = (8, 64, 56, 56), (64, 1, 3, 3), [2, 2], [1, 1], _ONE, 64, 2
_ROWS = (8, 197, 768)
_BATCH = (True, True, True, True, 0.1, 1e-5)
_CLASSES = ("classes", False, 1, 0.1)
_VIT = (8, 12, 197, 64), ((8, 12, 197, 64), 64, None, False, None, False, 0.0)
_DROPS = (8, 12, 197, 64), ((8, 12, 197, 64), 64, None, False, None, False, 0.1)
_SWIN = (64, 3, 49, 32), ((64, 3, 49, 32), 32, ("add", (3, 49, 49)), False, None, False, 0.0)
_BLOCK = ((64, 64, 3, 3), "gbsr", True, _ONE, _ONE, _ONE, 1, 1)
_SEPARABLE = ([3, 3], 128, "gbGBr", _ONE, _ONE, _ONE, 2, 2)
LAUNCHES = (
    Launch("max_pool2d", _STEM, _MAX),
    Launch("max_pool2d", _STEM, _LARGE),
    Launch("max_pool2d_inference", _STEM, _MAX),
    Launch("max_pool2d_backward", _STEM, _MAX),
    Launch("max_pool2d_indices", _STEM, _MAX, wide=(WIDE_STORE,)),  # its inputs are bytes
    Launch("avg_pool2d", _STEM, _AVERAGE),
    Launch("avg_pool2d_backward", _STEM, _AVERAGE),
    Launch("adaptive_avg_pool2d", (8, 512, 7, 7), ([7, 7],)),
    Launch("adaptive_avg_pool2d", (8, 2048, 7, 7), ([1, 1],), wide=(WIDE_LOAD,)),  # few outputs
    Launch("adaptive_avg_pool2d_backward", (8, 512, 7, 7), ([7, 7],)),
    Launch("adaptive_avg_pool2d_backward", (8, 2048, 7, 7), ([1, 1],)),
    *(Launch(op, _STEM, (5,), (WIDE_LOAD,)) for op in ("activation", "activation_backward")),
    *(
        Launch(f"layer_norm{kind}", _ROWS, (768, True, True, 1e-6), ())
        for kind in ("", "_backward")
    ),
    *(Launch(f"batch_norm{kind}", _STEM, _BATCH, ()) for kind in ("", "_backward")),
    *(
        Launch(f"local_response_norm{kind}", (8, 96, 55, 55), (5, 1e-4, 0.75, 1.0), ())
        for kind in ("", "_backward")
    ),
    *(
        Launch(f"conv_bn_act{kind}", (8, 64, 56, 56), _BLOCK, (), PRODUCT)
        for kind in ("", "_inference", "_backward")
    ),
    Launch("depthwise_separable_inference", (8, 64, 56, 56), _SEPARABLE, (), PRODUCT),
    *(Launch(f"softmax{kind}", _ROWS, (2, False), ()) for kind in ("", "_backward")),
    *(Launch(f"cross_entropy{kind}", (64, 1000), _CLASSES, ()) for kind in ("", "_backward")),
    Launch("binary_cross_entropy", _STEM, (True, True, True), ()),
    Launch("dropout", _STEM, (0.5, 2**32 + 1, True), ()),  # a seed of constants
    *_conv(*_RESNET, wide=(WIDE_COPY, WIDE_STORE), limits=PRODUCT),
    *_conv(*_RESNET_STEM, wide=(), limits=PRODUCT),
    *_conv(*_MOBILENET, wide=_WIDE, limits=SIMPLE),
    *(
        Launch(op, *attention, wide=(), limits=PRODUCT)
        for op in ("attention", "attention_backward")
        for attention in (_VIT, _DROPS, _SWIN)
    ),
    *(
        Launch(f"{kind}_cell{way}", (8, 128), (256, True), wide=(), tensors=TENSORS[::2])
        for kind in ("lstm", "gru", "rnn")
        for way in ("", "_inference", "_backward")
    ),
)


def judge_launches(arch, directory):
    """Compiles every launch and writes what breaks a gate, and the kernels seen, as JSON."""
    import torch
    import triton
    from cases import LAYOUTS, SPECS
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    from torchext.triton_kernels import KERNELS

    class Driver:
        """As if a GPU were there."""

        def get_current_target(self):
            return GPUTarget("cuda", arch, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    compiled, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        compiled.append(run(self, *args, grid=grid, warmup=True, **options))

    triton.runtime.driver.set_active(Driver())
    JITFunction.run = compile_only
    complaints, seen = [], []
    for launch in LAUNCHES:
        for dtype, layout in launch.tensors:

            def make(shape, dtype=dtype, layout=layout):
                x = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
                return LAYOUTS[layout](x)

            make.weight = make
            x = make(launch.shape)
            KERNELS[launch.op](*SPECS[launch.op].arguments(make, x, *launch.arguments))
            wide = launch.wide if layout == "channels_last" else ()
            for kernel in compiled:
                cubin = directory / f"{len(seen)}.sm_{arch}.cubin"
                cubin.write_bytes(kernel.asm["cubin"])
                what = f"sm_{arch} {launch.op}{[*launch.shape, *launch.arguments]} {dtype} {layout}"
                complaints += judge(
                    what, kernel.name, cubin, kernel.metadata.shared, launch.limits, wide
                )
                seen.append(kernel.name)
            compiled.clear()
    (directory / f"{arch}.json").write_text(json.dumps([complaints, seen]))


def judge(what, kernel, cubin, shared, limits, wide):
    """What breaks a gate, in words; `shared` is dynamic shared memory, which a cubin lacks."""
    used, accesses = gpu_gates.resources(cubin)[kernel], gpu_gates.wide_accesses(cubin)[kernel]
    print(f"{what}: {kernel}: {used}, {shared} bytes dynamic, {sorted(accesses)}")
    if used.registers > limits.registers or used.stack > MOST_STACK or used.spills:
        yield f"{what}: {kernel}: {used}"
    if used.shared + shared > limits.shared:
        yield f"{what}: {kernel}: {used.shared + shared} bytes of shared memory"
    if not accesses.issuperset(wide):
        yield f"{what}: {kernel}: of {wide} only {sorted(accesses)}"


@pytest.mark.parametrize("arch", ARCHS)
def test_machine_code(arch, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-W", "ignore", __file__, str(arch), str(tmp_path)]
    subprocess.run(command, env=environment, check=True)
    complaints, judged = json.loads((tmp_path / f"{arch}.json").read_text())
    assert not complaints, "\n".join(complaints)
    files = Path(__file__).parent.parent.glob("triton_kernels/*.py")
    text = "".join(file.read_text() for file in files)
    assert set(judged) == set(re.findall(r"def (\w+_kernel)\(", text))


if __name__ == "__main__":
    judge_launches(int(sys.argv[1]), Path(sys.argv[2]))
