"""What a result must say about where and when it was measured. Never a host's or a user's name."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from .._load import build_info
from .._sources import digest_of
from .._version import __version__

# Of /proc/cpuinfo's flags, those that decide which kernels run.
ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve")


def describe(device, threads, name=None):
    """pytest-benchmark's "machine_info": its keys where it has one."""
    model, flags = _cpu()
    facts = {
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release(),
        "python_version": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "cpu": {"brand_raw": model, "count": cores()},
        "isa": " ".join(flag for flag in ISA_FLAGS if flag in flags),
        "threads": threads,
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torchext": __version__,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "name": properties.name,
            "arch": f"sm_{properties.major}{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 2**30),
            "cuda": torch.version.cuda,
        }
    return facts | {"name": name or _slug(facts)}


def _slug(facts):
    """The machine's name for files: "amd-epyc-9b45-2core", "nvidia-h200"."""
    name = facts["gpu"]["name"] if "gpu" in facts else facts["cpu"]["brand_raw"]
    words = re.sub(r"\(.*?\)|\d+-Core|@.*|CPU|Processor", " ", name).lower()
    words = re.findall(r"[a-z0-9]+", words)
    return "-".join(words if "gpu" in facts else [*words, f"{facts['cpu']['count']}core"])


def code():
    """A fingerprint of what runs: the compiled library's sources, and the Python ones."""
    return f"{build_info().get('sources')} {digest_of(Path(__file__).parent.parent, '*.py')}"


def revision():
    """pytest-benchmark's "commit_info"; the version where this is not a git checkout."""
    here = Path(__file__).parent
    try:
        name = _git(here, "rev-parse", "--short", "HEAD")
        dirty = bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return {"id": f"v{__version__}", "dirty": False, "project": "torchext"}
    return {"id": name, "dirty": dirty, "project": "torchext"}


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _git(directory, *arguments):
    command = ["git", "-C", directory, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu():
    """(model name, feature flags)"""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    return (
        model[1].strip() if model else platform.machine(),
        flags[1].split() if flags else [],
    )


def cores():
    """Physical cores that this process may use."""
    topology = "/sys/devices/system/cpu/cpu{}/topology/core_cpus_list"
    processors = os.sched_getaffinity(0)
    try:
        return len({Path(topology.format(i)).read_text() for i in processors})
    except OSError:
        return len(processors)


def free_memory():
    """Bytes that new processes may take without others going without; inf if unknown."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return float("inf")
    return 1024 * int(re.search(r"MemAvailable:\s*(\d+) kB", text)[1])
