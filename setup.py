"""Builds the op libraries (CPU always, CUDA where nvcc is found) and the module torchext._host.

Environment: CXX; TORCHEXT_CUDA=auto|0|1; TORCHEXT_CUDA_ARCHS, e.g. "80;90a" (the lowest also as PTX);
TORCHEXT_CXXFLAGS, added to every compile and link (a sanitizer build, say); MAX_JOBS.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from build_backend import find_torch, package_paths
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
ISAS = {"generic": ""}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS["avx2"] = "-mavx2 -mfma -mf16c"
    ISAS["avx512"] = ISAS["avx2"] + " -mavx512f -mavx512bw -mavx512vl -mavx512dq"
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
    """(nvcc, "") or (None, why not). torch is not asked: without CUDA it would not know."""
    if os.environ.get("TORCHEXT_CUDA", "auto") == "0":
        return None, "TORCHEXT_CUDA=0"
    compilers = [
        Path(os.environ[name]) / "bin/nvcc"
        for name in ("CUDA_HOME", "CUDA_PATH")
        if os.environ.get(name)
    ]
    compilers += [Path(directory) / "nvcc" for directory in os.environ["PATH"].split(os.pathsep)]
    compilers.append(Path("/usr/local/cuda/bin/nvcc"))
    for path in package_paths():  # the nvidia-cuda-nvcc wheel
        compilers += sorted(Path(path).glob("nvidia/*/bin/nvcc"))
    why = "nvcc not found in CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda or the nvidia-cuda-nvcc wheel"
    for nvcc in filter(Path.is_file, compilers):
        home = nvcc.resolve().parent.parent
        for directory in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            if (home / directory / "libcudart_static.a").is_file():
                return (home / "bin/nvcc", home / directory), ""
        why = f"no libcudart_static.a beside {nvcc}"
    return None, why


def jobs():
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return os.environ.get("MAX_JOBS") or str(max(1, min(os.cpu_count(), int(memory_gb / 2))))


class Ninja:
    """Writes build.ninja in `directory`; one object per source and set of flags."""

    def __init__(self, directory):
        self.directory, self.lines = directory, []

    def rule(self, name, command, **extra):
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
        self.lines += [f"  {key} = {value}" for key, value in extra.items()]

    def compile(self, rule, source, stem, flags=""):
        output = f"{stem}.o"
        self.lines += [f"build {output}: {rule} {source}", f"  flags = {flags}"]
        return output

    def link(self, output, objects, flags=""):
        self.lines += [f"build {output}: link {' '.join(objects)}", f"  flags = {flags}"]

    def run(self, target):
        text = "\n".join(self.lines) + "\n"
        file = self.directory / "build.ninja"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        return subprocess.run(["ninja", "-C", self.directory, "-j", jobs(), target]).returncode == 0


class Build(build_ext):
    def run(self):
        directory = Path(self.build_temp).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        info = build(directory)
        package = ROOT / "torchext" if self.inplace else Path(self.build_lib) / "torchext"
        (package / "lib").mkdir(parents=True, exist_ok=True)
        host = "_host" + sysconfig.get_config_var("EXT_SUFFIX")
        shutil.copy2(directory / host, package / host)
        for name in ("libtorchext_cpu.so", "libtorchext_cuda.so"):
            (package / "lib" / name).unlink(missing_ok=True)
            if name.removesuffix(".so").removeprefix("libtorchext_") not in info["not_built"]:
                shutil.copy2(directory / name, package / "lib" / name)
        (package / "lib/build_info.json").write_text(json.dumps(info, indent=1) + "\n")
        print(
            f"torchext: built cpu ({', '.join(ISAS)}) against torch {info['torch']}"
            + (f", cuda ({info['cuda_archs']})" if "cuda" not in info["not_built"] else "")
        )
        for name, why in info["not_built"].items():
            print(f"torchext: {name} was not built: {why}")

    def get_outputs(self):
        return []

    get_output_mapping = dict


def build(directory):
    """Compiles everything into `directory`; returns the facts that `torchext info` shows."""
    compiler, (nvcc, why_no_cuda) = find_compiler(), find_nvcc()
    found = find_torch()
    if not found:
        sys.exit(
            "torchext: no torch >= 2.10 found to build with; leave build isolation on, or install it"
        )
    torch_version, torch_directory = found
    import pybind11

    # Fixed names for directories that move with every isolated build: ninja compares command lines.
    for name, target in (
        ("torch", torch_directory / "include"),
        ("pybind11", pybind11.get_include()),
    ):
        link = directory / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    csrc = ROOT / "csrc"
    extra = os.environ.get("TORCHEXT_CXXFLAGS", "")
    n = Ninja(directory)
    n.rule(
        "cxx",
        f"{compiler} -std=c++17 -O2 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi"
        f" -MMD -MF $out.d {extra} $flags -c $in -o $out",
        depfile="$out.d",
        deps="gcc",
    )
    n.rule("link", f"{compiler} -shared {extra} $in $flags -o $out")
    # An empty library of torch's name: links without torch's own, finds the one that is loaded.
    stub = directory / "libtorch_cpu.so"
    subprocess.run(
        [
            *compiler.split(),
            "-shared",
            "-Wl,-soname,libtorch_cpu.so",
            "-x",
            "c++",
            "/dev/null",
            "-o",
            stub,
        ],
        check=True,
    )
    link_torch = f"-Wl,--no-as-needed {stub} -Wl,--exclude-libs,ALL"
    # The version stands in the flags so that another torch means a rebuild.
    torch_flags = (
        f"-isystem torch -DTORCH_TARGET_VERSION=0x020a000000000000"
        f" -DTORCHEXT_BUILT_WITH='\"{torch_version}\"'"
    )

    def op_objects(device):
        flags = f"{torch_flags} -DTORCHEXT_DISPATCH_KEY={device.upper()} -DTORCHEXT_LIBRARY_{device.upper()}=1"
        return [
            n.compile("cxx", source, f"{device}_op_{source.stem}", flags)
            for source in sorted((csrc / "op").glob("*.cpp"))
        ]

    objects = [
        n.compile("cxx", csrc / "ops.cpp", "ops", torch_flags),
        *op_objects("cpu"),
        n.compile("cxx", csrc / "cpu/kernels.cpp", "cpu_kernels", torch_flags),
    ]
    for source in sorted((csrc / "cpu").glob("*.cpp")):
        if source.stem != "kernels":
            objects += [
                n.compile("cxx", source, f"cpu_{isa}_{source.stem}", f"-O3 {flags} {QUIET}")
                for isa, flags in ISAS.items()
            ]
    n.link("libtorchext_cpu.so", objects, link_torch)
    host = "_host" + sysconfig.get_config_var("EXT_SUFFIX")
    n.compile(
        "cxx",
        csrc / "host.cpp",
        "host",
        f"-isystem pybind11 -isystem {sysconfig.get_path('include')}",
    )
    n.link(host, ["host.o"])
    n.lines.append(f"build cpu: phony libtorchext_cpu.so {host}")
    archs = os.environ.get("TORCHEXT_CUDA_ARCHS", "80;90a").split(";")
    if nvcc:
        gencode = [f"-gencode arch=compute_{a},code=sm_{a}" for a in archs]
        lowest = re.sub(r"\D", "", archs[0])
        gencode.append(f"-gencode arch=compute_{lowest},code=compute_{lowest}")
        n.rule(
            "nvcc",
            f"{nvcc[0]} -ccbin {compiler.split()[0]} -std=c++17 -O3 {' '.join(gencode)}"
            " -Xcompiler -fPIC,-fvisibility=hidden -MMD -MF $out.d $flags -c $in -o $out",
            depfile="$out.d",
            deps="gcc",
        )
        objects = op_objects("cuda") + [
            n.compile("nvcc", source, f"cuda_{source.stem}")
            for source in sorted((csrc / "cuda").glob("*.cu"))
        ]
        n.link(
            "libtorchext_cuda.so",
            objects,
            f"{link_torch} {nvcc[1]}/libcudart_static.a -ldl -lrt -lpthread",
        )
        n.lines.append("build cuda: phony libtorchext_cuda.so")
    if not n.run("cpu"):
        sys.exit("torchext: the CPU library did not compile: the compiler's words are above")
    if nvcc and not n.run("cuda"):
        nvcc, why_no_cuda = None, "nvcc failed: its words are above"
    if not nvcc and os.environ.get("TORCHEXT_CUDA") == "1":
        sys.exit(f"torchext: TORCHEXT_CUDA=1, but {why_no_cuda}")
    version = subprocess.run(
        [*compiler.split(), "--version"], capture_output=True, text=True
    ).stdout
    return {
        "torch": torch_version,
        "compiler": version.splitlines()[0],
        "isas": list(ISAS),
        "cuda_archs": ";".join(archs) + f" and PTX {lowest}" if nvcc else "",
        "cxxflags": extra,
        "not_built": {} if nvcc else {"cuda": why_no_cuda},
    }


setup(ext_modules=[Extension("torchext._host", sources=[])], cmdclass={"build_ext": Build})
