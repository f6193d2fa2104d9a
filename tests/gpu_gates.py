"""What a compiled GPU kernel (a cubin of nvcc's or Triton's) costs and how it reaches memory, read
from its machine code by cuobjdump. No GPU needed."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# What the driver keeps for itself of each block's shared memory; cuobjdump counts it from sm_90 on.
RESERVED_SHARED = 1024
LOCAL_ACCESSES = ("LDL", "STL")
WIDE_LOAD, WIDE_STORE = "LDG.E.128", "STG.E.128"
WIDE_COPY = "LDGSTS.E.128"  # to shared memory, while other work goes on


@dataclass(frozen=True)
class Resources:
    registers: int  # a thread's
    stack: int  # bytes of a thread's local memory
    shared: int  # bytes of static shared memory of a block
    spills: int  # instructions that load from or store to local memory


def find_tool(name):
    """A CUDA tool by name, or None: the toolkit's, else the one that Triton brings along."""
    folders = [Path(os.environ[v]) / "bin" for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    folders += [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    folders.append(Path("/usr/local/cuda/bin"))
    triton = find_spec("triton")
    if triton:
        folders.append(Path(triton.origin).parent / "backends/nvidia/bin")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


@cache
def cuobjdump(option, cubin):
    command = [find_tool("cuobjdump"), option, cubin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def readable(names):
    """C++ names without namespaces that say nothing and without parameters: f<float, 4, int>."""
    if not shutil.which("c++filt"):
        return names
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    text = text.replace("(anonymous namespace)::", "")
    return [line.partition("(")[0].removeprefix("void ") for line in text.splitlines()]


def opcodes(cubin):
    """kernel -> the opcode of each of its instructions, such as LDG.E.128.CONSTANT."""
    _, *kernels = re.split(r"\n\s*Function : ", cuobjdump("-sass", cubin))
    opcode = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
    names = readable([kernel.partition("\n")[0] for kernel in kernels])
    return dict(zip(names, map(opcode.findall, kernels), strict=True))


def resources(cubin):
    """kernel -> Resources"""
    architecture = int(re.search(r"code for sm_(\d+)", cuobjdump("-sass", cubin))[1])
    reserved = RESERVED_SHARED if architecture >= 90 else 0
    entry = re.compile(r"Function (.*):\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
    entries = entry.findall(cuobjdump("--dump-resource-usage", cubin))
    names, code, used = readable([name for name, *_ in entries]), opcodes(cubin), {}
    for name, (_, *numbers) in zip(names, entries, strict=True):
        registers, stack, shared, local = map(int, numbers)
        spills = sum(opcode.startswith(LOCAL_ACCESSES) for opcode in code[name])
        used[name] = Resources(registers, stack + local, max(shared - reserved, 0), spills)
    return used


def wide_accesses(cubin):
    """kernel -> the 128-bit accesses to global memory among its opcodes, without cache hints."""
    wide = re.compile(r"(LDGSTS|LDG|STG)\.E(?:\.BYPASS)?(?:\.LTC128B)?\.128")
    return {
        name: {f"{match[1]}.E.128" for opcode in code if (match := wide.match(opcode))}
        for name, code in opcodes(cubin).items()
    }
