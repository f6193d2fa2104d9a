"""`torchext info`: the facts a bug report needs, printed even where no library loaded."""

import argparse
import importlib.util
import os
import platform

import torch

from . import _load
from ._version import __version__
from .ops import OPS
from .ops._triton import serves_cuda


def gather():
    """Everything, as plain data."""
    build, library = _load.build_info(), _load.cpu_library()
    return {
        "torchext": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "environment": {k: v for k, v in os.environ.items() if k.startswith("TORCHEXT_")},
        "libraries": str(_load.library_directory()),
        "built": build,
        "loaded": {name: why or "yes" for name, why in _load.why_not_loaded.items()},
        "triton": _triton(),
        "cpu": {
            "features": _cpu_features(),
            "isa": library.torchext_cpu_isa().decode() if library else None,
            "threads": torch.get_num_threads(),
        },
        "gpus": [
            {"name": p.name, "arch": f"sm_{p.major}{p.minor}"}
            for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
        "ops": {name: _backends(name) for name in sorted(OPS)},
    }


def _cpu_features():
    try:
        from . import _host
    except ImportError as error:
        return [f"unknown ({error})"]
    return [isa for isa, present in _host.cpu_features().items() if present]


def _cuda_archs(built):
    if not built["cuda_archs"]:
        return f"not built: {built['not_built']['cuda']}"
    return ", ".join(f"sm_{arch}" for arch in built["cuda_archs"]) + ", and PTX"


def _triton():
    if importlib.util.find_spec("triton") is None:
        return "not installed"
    import triton

    return triton.__version__


def _backends(name):
    """Which devices' tensors this op has a kernel for, and by what."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    known = not _load.why_not_loaded["cpu"]
    backends = {"cpu": "C++"} if known and has(f"torchext::{name}", "CPU") else {}
    if known and has(f"torchext::{name}", "CUDA"):
        backends["cuda"] = "Triton" if serves_cuda(name) else "C++"
    return backends


def main(argv):
    parser = argparse.ArgumentParser(prog="torchext info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    options = parser.parse_args(argv)
    facts = gather()
    if options.json:
        from .__main__ import print_json

        print_json(facts)
        return 0
    built, cpu = facts["built"], facts["cpu"]
    print(f"torchext {facts['torchext']}, Python {facts['python']}, torch {facts['torch']}", end="")
    print(f" (CUDA {facts['torch_cuda']})" if facts["torch_cuda"] else " (no CUDA)")
    print(f"libraries   {facts['libraries']}")
    for name, value in facts["environment"].items():
        print(f"environment {name}={value}")
    if built:
        print(f"built       with {built['compiler']}, headers of torch {built['torch']}")
        print(f"            cpu: {', '.join(built['isas'])}")
        print(f"            cuda: {_cuda_archs(built)}")
    else:
        print("built       no: this is a source tree; pip install . (or pip install -e .)")
    for name, state in facts["loaded"].items():
        print(f"{name} library {'loaded' if state == 'yes' else 'not loaded: ' + state}")
    print(f"triton      {facts['triton']}")
    print(
        f"cpu         has {', '.join(cpu['features'])}; uses {cpu['isa']}, {cpu['threads']} threads"
    )
    for gpu in facts["gpus"]:
        print(f"gpu         {gpu['name']} ({gpu['arch']})")
    if not facts["gpus"]:
        print("gpu         none")
    print(f"\n{'op':34}{'cpu':14}cuda")
    for name, backends in facts["ops"].items():
        print(f"{name:34}{backends.get('cpu', 'plain PyTorch'):14}", end="")
        print(backends.get("cuda", "plain PyTorch"))
    return 0
