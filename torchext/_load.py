"""Finds and loads the compiled libraries, and remembers in words why one did not load."""

import ctypes
import importlib.metadata
import json
import os
import re
import struct
import warnings
from pathlib import Path

import torch

from ._sources import digest_of

MINIMUM_TORCH = (2, 10)
ISAS = ("generic", "avx2", "avx512", "avx512_bf16")

# Library name -> "" once loaded, else why not. What `torchext info` shows.
why_not_loaded = {"cpu": "not tried yet", "cuda": "not tried yet"}


def library_directory():
    """Where the libraries lie: beside this file, or, in a clone, in the installed package."""
    here = Path(__file__).parent / "lib"
    if here.is_dir():
        return here
    for distribution in importlib.metadata.distributions(name="torchext"):
        installed = Path(distribution.locate_file("torchext")) / "lib"
        if installed.is_dir():
            return installed
    return here


def build_info():
    """The facts that the build wrote down, or {} without a build (or with a damaged one)."""
    try:
        return json.loads((library_directory() / "build_info.json").read_text())
    except (OSError, ValueError):
        return {}


def cpu_library():
    """The CPU library's plain C functions; None if it did not load."""
    if why_not_loaded["cpu"]:
        return None
    library = ctypes.CDLL(str(library_directory() / "libtorchext_cpu.so"))
    library.torchext_cpu_isa.restype = ctypes.c_char_p
    library.torchext_cpu_use_isa.restype = ctypes.c_bool
    return library


def multiplies_pairs():
    """Whether CPU kernels multiply pairs of bf16 (csrc/cpu/product.h)."""
    library = cpu_library()
    return library is not None and library.torchext_cpu_isa() == b"avx512_bf16"


def use_isa(name):
    """Switches the CPU kernels to an ISA; a clear error if this CPU lacks it."""
    if name not in ISAS or not cpu_library().torchext_cpu_use_isa(name.encode()):
        raise RuntimeError(
            f"torchext: TORCHEXT_ISA: got {name!r}, expected one this CPU has of {', '.join(ISAS)}"
        )


def _older_than_sources():
    """In a source tree: whether csrc has changed since the libraries were built from it."""
    csrc = Path(__file__).resolve().parent.parent / "csrc"
    built_from = build_info().get("sources")
    return csrc.is_dir() and built_from is not None and built_from != digest_of(csrc)


def load_libraries(package_path):
    """Loads what there is; `package_path` is torchext.__path__, where _host is looked for."""
    if library_directory().parent != Path(__file__).parent:
        package_path.append(str(library_directory().parent))
    if _older_than_sources():
        warnings.warn(
            f"torchext: the libraries in {library_directory()} were built from other sources than"
            " this tree's csrc: install again",
            stacklevel=3,
        )
    why_not_loaded["cpu"] = load("cpu")
    why_not_loaded["cuda"] = why_not_loaded["cpu"] or _no_cuda() or load("cuda")
    if why_not_loaded["cpu"]:
        warnings.warn(
            f"torchext: no kernels, everything runs as plain PyTorch: {why_not_loaded['cpu']}"
            " (`torchext info` tells more)",
            stacklevel=3,
        )
    elif os.environ.get("TORCHEXT_ISA"):
        try:
            use_isa(os.environ["TORCHEXT_ISA"])
        except RuntimeError as error:
            warnings.warn(f"{error}; using the best it has", stacklevel=3)


def load(name):
    """Loads one library; returns why not, "" if it did."""
    directory = library_directory()
    file = directory / f"libtorchext_{name}.so"
    if not directory.is_dir():
        return f"{directory.parent} is a source tree that was never built: pip install . (or -e .)"
    if not file.is_file():
        return (
            build_info()
            .get("not_built", {})
            .get(name, f"{file} is missing: install torchext again")
        )
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < MINIMUM_TORCH:
        return f"torch {torch.__version__} is older than 2.10"
    if not _is_whole(file):
        return f"{file} is damaged: install torchext again"
    try:
        torch.ops.load_library(str(file))
    except OSError as error:
        return _in_words(str(error.__cause__ or error), name)  # torch's own text gives no reason
    if name != "cpu":
        ctypes.CDLL(str(file)).torchext_ask_for_tf32(_takes_tf32)
    return ""


@ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_bool)
def _takes_tf32(linear):
    """Whether torch would round float32 products on a GPU, as its users know to switch it."""
    backends = torch.backends
    products = backends.cuda.matmul if linear else backends.cudnn.conv
    return products.fp32_precision == "tf32"


def _is_whole(file):
    """Whether a library goes on to its last table: to load a cut one is a SIGBUS, not an error."""
    with file.open("rb") as library:
        header = library.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF"):
        return False
    (begin,), (size, count) = (
        struct.unpack_from("<Q", header, 40),
        struct.unpack_from("<HH", header, 58),
    )
    return file.stat().st_size >= begin + size * count


def _in_words(error, name):
    """The loader's message without mangled names, and what to do about it."""
    built = build_info().get("torch", "an unknown torch")
    if "undefined symbol" in error:
        return (
            f"the {name} library, built with torch {built}, needs a function that torch"
            f" {torch.__version__} lacks: install torchext again, for this torch"
        )
    return re.sub(r"\b_Z\w+", "a C++ function", error)


def _no_cuda():
    """Why the CUDA library is of no use here; "" if it is."""
    if not torch.version.cuda:
        return "this torch has no CUDA"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    needed = build_info().get("cuda_version", 0)
    if version.value // 1000 < needed // 1000:
        return (
            f"the driver supports CUDA {version.value // 1000}, the library needs {needed // 1000}:"
            " update the driver; Triton serves CUDA tensors meanwhile"
        )
    return ""
