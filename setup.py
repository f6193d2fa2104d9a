"""Builds the op libraries (CPU always, CUDA where nvcc is found) and the module torchext._host.

Environment: CXX; TORCHEXT_CUDA=auto|0|1; TORCHEXT_CUDA_ARCHS, e.g. "80;90a" (the first also as
PTX); TORCHEXT_CXXFLAGS, added to every compile and link (a sanitizer build, say); MAX_JOBS;
TORCHEXT_EMULATOR=1: also the CUDA library as CPU code (csrc/emulator), which only tests want.
"""

import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

from build_backend import find_torch, package_paths

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
HOST = "_host" + sysconfig.get_config_var("EXT_SUFFIX")
ISAS = {"generic": "-fno-exceptions"}  # whose handlers objects of two ISAs would share
if platform.machine() in ("x86_64", "AMD64"):
    ISAS["avx2"] = ISAS["generic"] + " -mavx2 -mfma -mf16c"
    ISAS["avx512"] = ISAS["avx2"] + " -mavx512f -mavx512bw -mavx512vl -mavx512dq"
# How the emulator has CUDA sources compiled: hooks at every access of memory (emulator/hooks.cpp),
# structs moved whole, variables that nobody set full of nonsense. Visible, so that a test may put
# kernels of its own before these.
EMULATED = (
    "-O2 -g1 -fvisibility=default -fsanitize=thread --param tsan-instrument-func-entry-exit=0"
    " -fno-tree-sra -fno-strict-aliasing -ftrivial-auto-var-init=pattern -Wno-unknown-pragmas"
    f" -include {CSRC}/emulator/cuda.h -x c++"
)
USES = {"linear": "conv2d", "attention_qkv": "attention"}  # ops whose kernels are another one's
# g++ 12 warns of its own AVX-512 intrinsics (GCC bug 105593).
QUIET = "-Wno-maybe-uninitialized"


def find_compiler():
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if shutil.which(name.split()[0]):
            return name
    sys.exit(
        "torchext: no C++17 compiler found (tried $CXX, c++, g++, clang++): install one, e.g. g++"
    )


def find_nvcc():
    """(nvcc, "") or (None, why not). torch is not asked: one without CUDA would not know."""
    choice = os.environ.get("TORCHEXT_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        sys.exit(f"torchext: TORCHEXT_CUDA: got {choice!r}, expected auto, 0 or 1")
    if choice == "0":
        return None, "TORCHEXT_CUDA=0"
    homes = [Path(os.environ[v]) for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    compilers = [home / "bin/nvcc" for home in homes]
    compilers += [Path(folder) / "nvcc" for folder in os.environ["PATH"].split(os.pathsep)]
    compilers.append(Path("/usr/local/cuda/bin/nvcc"))
    for path in package_paths():  # the nvidia-cuda-nvcc wheel
        compilers += sorted(Path(path).glob("nvidia/*/bin/nvcc"))
    why = "no nvcc in CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda or the nvidia-cuda-nvcc wheel"
    for nvcc in filter(Path.is_file, compilers):
        if find_cudart(nvcc):
            return nvcc, ""
        why = f"no libcudart_static.a beside {nvcc}"
    return None, why


def find_cudart(nvcc):
    home = nvcc.resolve().parent.parent
    for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        if (home / folder / "libcudart_static.a").is_file():
            return home / folder / "libcudart_static.a"


def jobs():
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return os.environ.get("MAX_JOBS") or str(max(1, min(os.cpu_count(), int(memory_gb / 2))))


class Ninja:
    """Writes build.ninja in `directory`; one object per source and set of flags."""

    def __init__(self, directory):
        self.directory, self.lines = directory, []

    def rule(self, name, command):
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
        if "$out.d" in command:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]

    def compile(self, rule, source, stem, flags=""):
        self.lines += [f"build {stem}.o: {rule} {source}", f"  flags = {flags}"]
        return f"{stem}.o"

    def link(self, output, objects, flags=""):
        self.lines += [f"build {output}: link {' '.join(objects)}", f"  flags = {flags}"]

    def run(self, *targets):
        text = "\n".join(self.lines) + "\n"
        file = self.directory / "build.ninja"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        command = ["ninja", "-C", self.directory, "-j", jobs(), *targets]
        return subprocess.run(command).returncode == 0


class Build(build_ext):
    def run(self):
        if self.editable_mode:  # setuptools would take a folder that it throws away
            self.build_temp = ROOT / f"build/temp.{self.plat_name}-{sys.implementation.cache_tag}"
        directory = Path(self.build_temp).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        info = build(directory)
        package = ROOT / "torchext" if self.inplace else Path(self.build_lib) / "torchext"
        (package / "lib").mkdir(parents=True, exist_ok=True)
        shutil.copy2(directory / HOST, package / HOST)
        for name in ("cpu", "cuda", "emulator"):
            library = f"libtorchext_{name}.so"
            (package / "lib" / library).unlink(missing_ok=True)
            if name not in info["not_built"]:
                shutil.copy2(directory / library, package / "lib" / library)
        (package / "lib/build_info.json").write_text(json.dumps(info, indent=1) + "\n")
        print(f"torchext: built with headers of torch {info['torch']}: cpu ({', '.join(ISAS)})")
        if info["cuda_archs"]:
            print(f"torchext: built cuda (sm_{', sm_'.join(info['cuda_archs'])}, and PTX)")
        if "cuda" in info["not_built"]:
            print(f"torchext: cuda was not built: {info['not_built']['cuda']}")
        if info["emulated"]:
            print("torchext: built emulator, for tests")

    def get_outputs(self):
        return []

    get_output_mapping = dict


def plan_cpu(n, torch_flags, link_torch):
    objects = [
        n.compile("cxx", CSRC / "ops.cpp", "ops", torch_flags),
        n.compile("cxx", CSRC / "cpu/kernels.cpp", "cpu_kernels", torch_flags),
        *plan_ops(n, "cpu", torch_flags),
    ]
    for source in sorted((CSRC / "cpu/launch").glob("*.cpp")):
        objects.append(n.compile("cxx", source, f"cpu_launch_{source.stem}", torch_flags))
    for source in sorted((CSRC / "cpu").glob("*.cpp")):
        if source.stem != "kernels":  # a kernel: one object per ISA
            objects += [
                n.compile("cxx", source, f"cpu_{isa}_{source.stem}", f"-O3 {flags} {QUIET}")
                for isa, flags in ISAS.items()
            ]
    n.link("libtorchext_cpu.so", objects, link_torch)
    python = f"-isystem pybind11 -isystem {sysconfig.get_path('include')}"
    n.link(HOST, [n.compile("cxx", CSRC / "host.cpp", "host", python)])


def plan_cuda(n, torch_flags, link_torch, nvcc, archs, compiler):
    lowest = re.sub(r"\D", "", archs[0])
    targets = [f"arch=compute_{a},code=sm_{a}" for a in archs]
    targets.append(f"arch=compute_{lowest},code=compute_{lowest}")
    n.rule(
        "nvcc",
        f"{nvcc} -ccbin {compiler.split()[0]} -std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden"
        f" {' '.join('-gencode ' + t for t in targets)} -MMD -MF $out.d -c $in -o $out",
    )
    objects = plan_ops(n, "cuda", torch_flags)
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        objects.append(n.compile("nvcc", source, f"cuda_{source.stem}"))
    cudart = find_cudart(nvcc)
    n.link("libtorchext_cuda.so", objects, f"{link_torch} {cudart} -ldl -lrt -lpthread")


def plan_emulator(n, torch_flags, link_torch):
    """The CUDA library, compiled for the CPU, and what plays the GPU."""
    objects = [
        n.compile("cxx", CSRC / "ops.cpp", "emulator_ops", f"{torch_flags} {library('emulator')}"),
        *plan_ops(n, "emulator", torch_flags),
    ]
    for source in sorted((CSRC / "emulator").glob("*.cpp")):
        flags = "-g1 -fvisibility=default"
        objects.append(n.compile("cxx", source, f"emulator_{source.stem}", flags))
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        objects.append(n.compile("cxx", source, f"emulated_{source.stem}", EMULATED))
    n.link("libtorchext_emulator.so", objects, f"{link_torch} -lpthread -ldl")


def library(device):
    return f"-DTORCHEXT_LIBRARY_{device.upper()}=1"


def plan_ops(n, device, torch_flags):
    """Checks, allocation and registration of the ops that a device has kernels for."""
    key = device.upper()
    flags = f"{torch_flags} -DTORCHEXT_DISPATCH_KEY={key} {library(device)}"
    return [
        n.compile("cxx", source, f"{device}_op_{source.stem}", flags)
        for source in sorted((CSRC / "op").glob("*.cpp"))
        if device == "cpu" or (CSRC / "cuda" / f"{USES.get(source.stem, source.stem)}.cu").exists()
    ]


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def build(directory):
    """Compiles everything into `directory`; returns the facts that `torchext info` shows."""
    compiler, (nvcc, why_no_cuda), found = find_compiler(), find_nvcc(), find_torch()
    if not found:
        sys.exit(
            "torchext: no torch >= 2.10 to build with: leave build isolation on, or install it"
        )
    # A venv that is not active is not in PATH either.
    os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")
    if not shutil.which("ninja"):
        sys.exit("torchext: no ninja to build with: leave build isolation on, or install it")
    torch_version, torch_directory = found
    try:
        import pybind11
    except ImportError:
        sys.exit("torchext: no pybind11 to build with: leave build isolation on, or install it")

    # Fixed names for directories that move with every isolated build: ninja compares command lines.
    targets = {"torch": torch_directory / "include", "pybind11": pybind11.get_include()}
    for name, target in targets.items():
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(target)
    # An empty library of torch's name: links without torch's own, finds the one that is loaded.
    stub = directory / "libtorch_cpu.so"
    name = "-Wl,-soname,libtorch_cpu.so"
    output_of(*compiler.split(), "-shared", name, "-x", "c++", "/dev/null", "-o", stub)
    link_torch = f"-Wl,--no-as-needed {stub} -Wl,--exclude-libs,ALL"
    # The version stands in the flags so that another torch means a rebuild.
    torch_flags = "-isystem torch -DTORCH_TARGET_VERSION=0x020a000000000000"
    torch_flags += f" -DTORCHEXT_BUILT_WITH='\"{torch_version}\"'"
    extra = os.environ.get("TORCHEXT_CXXFLAGS", "")
    archs = os.environ.get("TORCHEXT_CUDA_ARCHS", "80;90a").split(";")

    n = Ninja(directory)
    n.rule(
        "cxx",
        f"{compiler} -std=c++17 -O2 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi"
        f" -MMD -MF $out.d $flags {extra} -c $in -o $out",
    )
    n.rule("link", f"{compiler} -shared {extra} $in $flags -o $out")
    plan_cpu(n, torch_flags, link_torch)
    if nvcc:
        plan_cuda(n, torch_flags, link_torch, nvcc, archs, compiler)
    emulated = os.environ.get("TORCHEXT_EMULATOR") == "1"
    if emulated:
        plan_emulator(n, torch_flags, link_torch)
    if not n.run("libtorchext_cpu.so", HOST):
        sys.exit("torchext: the CPU library did not compile: the compiler's words are above")
    if emulated and not n.run("libtorchext_emulator.so"):
        sys.exit("torchext: the emulator did not compile: the compiler's words are above")
    if nvcc and not n.run("libtorchext_cuda.so"):
        nvcc, why_no_cuda = None, "nvcc failed: pip install -v shows its words"
    if not nvcc and os.environ.get("TORCHEXT_CUDA") == "1":
        sys.exit(f"torchext: TORCHEXT_CUDA=1, but {why_no_cuda}")
    release = re.search(r"release (\d+)\.(\d+)", output_of(nvcc, "--version")) if nvcc else None
    not_built = {} if nvcc else {"cuda": why_no_cuda}
    if not emulated:
        not_built["emulator"] = "it is for tests: TORCHEXT_EMULATOR=1 builds it"
    return {
        "torch": torch_version,
        "compiler": output_of(*compiler.split(), "--version").splitlines()[0],
        "cxxflags": extra,
        "isas": ISAS,
        "cuda_archs": archs if nvcc else [],
        "cuda_version": int(release[1]) * 1000 + int(release[2]) * 10 if nvcc else 0,
        "emulated": f"{compiler} -std=c++17 -fPIC {EMULATED}" if emulated else "",
        "not_built": not_built,
        "sources": runpy.run_path(ROOT / "torchext/_sources.py")["digest_of"](CSRC),
    }


setup(ext_modules=[Extension("torchext._host", sources=[])], cmdclass={"build_ext": Build})
