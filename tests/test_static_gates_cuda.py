"""Gates on the machine code that nvcc makes of every csrc/cuda/*.cu; no GPU needed."""

import re
import subprocess
from pathlib import Path

import gpu_gates
import pytest

SOURCES = sorted((Path(__file__).parent.parent / "csrc/cuda").glob("*.cu"))
ARCHITECTURES = ("80", "90a")

# Registers of a thread: 64 let four blocks of 256 threads share an SM, half of what it can hold.
# Kernels with 64-bit indices serve only huge tensors: three blocks.
MOST_REGISTERS = 64
MOST_REGISTERS_64_BIT = 80
BUDGETS = {  # where a file needs another one: its stem, and why
    # Four packs of one or two rows stay in registers: 8 loads of 16 bytes on their way a thread,
    # which two blocks of 256 (one, of layer_norm's sums for its weights) are enough to hide.
    "softmax": 112,
    "cross_entropy": 112,
    "layer_norm": 176,
    # Sums of 64 x 32 a warp, and the operands' addresses: two blocks of 256, but one of the
    # gradients of inputs on sm_80, and of those of TF32, which are read number by number.
    "conv2d": 168,
    "conv2d_backward_weight": 208,
    # Sums of 32 x 64 a warp: four blocks of 128, three of those that take moments.
    "conv2d_few_channels": 144,
    # A row of inputs and four outputs of 8 channels: two blocks of 256, but one of 5 x 5.
    "depthwise": 144,
    # Sums of 32 x 64 a warp, and a vector of channels in the making: four blocks of 128.
    "depthwise_separable": 128,
    # Sums of 32 x 64 a warp, a tile of scores and, where there is one, its mask on the way: two
    # blocks of 128, three and four without masks.
    "attention": 240,
    # Sums for keys and values, and two tiles of scores: two blocks of 128.
    "attention_backward": 248,
    # Sums of four rows for each gate, and of 64 x 32 a warp: two blocks of 256.
    "recurrent": 128,
    "recurrent_backward": 96,
    # Coefficients of 8 channels: two blocks of 256.
    "channel_norm": 96,
}

# Kernels that handle 16 bytes a thread name their type and lanes first. Every file has some ...
# ... except for these stems, and why: each element has a window of its own; the kernels are those
# of others; they make numbers of a table; they gather numbers one by one.
NOT_VECTORISED = {
    "local_response_norm",
    "conv_bn_act",
    "window_attention",
    "conv2d_few_channels",
}
VECTORISED = re.compile(r"<(double, 2|float, 4|[\w:]*(bf16|f16), 8)\b")
# A number for many elements.
ONLY_READS = re.compile(r"(_sums|_moments|_weights|::cross_entropy)_kernel<")
GATHERS = re.compile(r"(lay_out|copy_matrices)_kernel<")  # numbers that do not lie side by side

pytestmark = [
    pytest.mark.skipif(not gpu_gates.find_tool("nvcc"), reason="no nvcc"),
    pytest.mark.skipif(
        not gpu_gates.find_tool("cuobjdump"), reason="no cuobjdump (Triton has one)"
    ),
]


def compiled(source, architecture, folder):
    cubin = folder / f"{source.stem}.sm_{architecture}.cubin"
    command = [gpu_gates.find_tool("nvcc"), "-std=c++17", "-O3", f"-arch=sm_{architecture}"]
    subprocess.run([*command, "-cubin", source, "-o", cubin], check=True)
    return cubin


def too_expensive(cubin, budget=None):
    """What breaks a gate, in words."""
    complaints = []
    for kernel, used in gpu_gates.resources(cubin).items():
        most = budget or (MOST_REGISTERS_64_BIT if ", long>" in kernel else MOST_REGISTERS)
        # Of f64, which nobody uses for its speed, the compiler puts a few registers aside.
        stack = 32 if "<double" in kernel else 0
        if used.registers > most or used.stack > stack or used.shared:
            complaints.append(
                f"{kernel}: {used}, expected at most {most} registers, no local memory"
            )
    return complaints


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_machine_code(source, architecture, tmp_path):
    cubin = compiled(source, architecture, tmp_path)
    accesses = gpu_gates.wide_accesses(cubin)
    assert accesses, "no kernels found"
    assert not too_expensive(cubin, BUDGETS.get(source.stem))
    vectorised = {name: found for name, found in accesses.items() if VECTORISED.search(name)}
    assert bool(vectorised) == (source.stem not in NOT_VECTORISED)
    for name, found in vectorised.items():
        expected = {gpu_gates.WIDE_LOAD, gpu_gates.WIDE_STORE}
        expected -= {gpu_gates.WIDE_STORE} if ONLY_READS.search(name) else set()
        expected -= {gpu_gates.WIDE_LOAD} if GATHERS.search(name) else set()
        assert found >= expected, name


SPILLS = """
__global__ void __launch_bounds__(1024, 2) kernel(const float* x, float* y, int n) {
  float kept[64];
  for (int k = 0; k < 64; ++k) kept[k] = x[k * n + threadIdx.x];
  for (int k = 0; k < 64; ++k) y[k * n + threadIdx.x] = kept[k] * kept[63 - k];
}
"""
STATIC_SHARED = """
__global__ void kernel(float* y) {
  __shared__ float shared[64];
  shared[threadIdx.x] = y[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = shared[63 - threadIdx.x];
}
"""


@pytest.mark.parametrize("text", [SPILLS, STATIC_SHARED], ids=["spills", "static_shared"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gate_sees(text, architecture, tmp_path):
    source = tmp_path / "bad.cu"
    source.write_text(text)
    assert len(too_expensive(compiled(source, architecture, tmp_path))) == 1
