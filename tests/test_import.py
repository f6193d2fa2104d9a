"""`import torchext`: cheap, never fails, and says in words what is wrong with an installation."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from stack import PACKAGE, run_python

from torchext import _host, _load

# What some part of torchext uses, and `import torchext` must not wait for.
HEAVY = {
    *("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.onnx"),
    *("torch.utils.flop_counter", "hypothesis", "matplotlib", "onnx", "onnxscript", "pytest"),
    *("rich", "sympy", "triton"),
}

# Imports torchext where no other one is installed, runs an op, and tells all about it as JSON.
PROBE = """
import importlib.metadata, json, sys, time, warnings
import torch
importlib.metadata.distributions = lambda **_: iter(())
modules, begin = set(sys.modules), time.perf_counter()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torchext
seconds, new = time.perf_counter() - begin, sorted(set(sys.modules) - modules)
from torchext import _load
x = torch.arange(16.0).view(1, 1, 4, 4)
library = _load.cpu_library()
json.dump({
    "warnings": [str(w.message) for w in caught],
    "why": _load.why_not_loaded["cpu"],
    "isa": library.torchext_cpu_isa().decode() if library else None,
    "pooled": torchext.nn.functional.max_pool2d(x, 2).flatten().tolist(),
    "new": new,
    "seconds": seconds,
}, sys.stdout)
"""


def probe(path=PACKAGE.parent, **environment):
    """What PROBE says; it must at least have pooled rightly, and shown nobody a mangled name."""
    stdout, stderr = run_python("-c", PROBE, path=path, **environment)
    facts = json.loads(stdout)
    assert facts["pooled"] == [5, 7, 13, 15]
    assert "_Z" not in stdout + stderr
    # A developer's tree may be ahead of its libraries; that is told, but not what is tested here.
    facts["warnings"] = [w for w in facts["warnings"] if "built from other sources" not in w]
    return facts


def test_cost():
    facts = probe()
    print(f"import torchext: {facts['seconds']:.3f} s after torch")
    names = {name.partition(".")[0] for name in facts["new"]}
    assert names <= {"torchext", "torch", *sys.stdlib_module_names}
    heavy = [name for name in facts["new"] if any(f"{name}.".startswith(f"{h}.") for h in HEAVY)]
    assert heavy == []
    assert facts["warnings"] == []
    assert facts["isa"] == best_isa()


def best_isa():
    return [isa for isa, present in _host.cpu_features().items() if present][-1]


@pytest.mark.parametrize("isa", [*_load.ISAS, "avx1024"])
def test_isa_choice(isa):
    facts = probe(TORCHEXT_ISA=isa)
    if _host.cpu_features().get(isa):
        assert facts["isa"] == isa
        assert facts["warnings"] == []
    else:
        assert facts["isa"] == best_isa()
        (warning,) = facts["warnings"]
        assert f"TORCHEXT_ISA: got {isa!r}, expected one" in warning


@pytest.fixture
def package(tmp_path):
    """A copy of torchext whose libraries may be broken."""
    ignore = shutil.ignore_patterns("__pycache__", "lib")
    shutil.copytree(PACKAGE, tmp_path / "torchext", ignore=ignore)
    shutil.copytree(_load.library_directory(), tmp_path / "torchext" / "lib")
    return tmp_path / "torchext"


def remove_directory(lib):
    shutil.rmtree(lib)


def remove_library(lib):
    (lib / "libtorchext_cpu.so").unlink()


def cut_off(lib):
    file = lib / "libtorchext_cpu.so"
    os.truncate(file, file.stat().st_size // 2)


def put_garbage(lib):
    (lib / "libtorchext_cpu.so").write_bytes(b"garbage " * 1000)


def need_missing_symbol(lib):
    """A library that calls a C++ function no torch has."""
    source = "namespace at { void no_such_function(int); } void f() { at::no_such_function(1); }"
    subprocess.run(
        [
            *shlex.split(os.environ.get("CXX", "c++")),
            *("-shared", "-fPIC", "-x", "c++", "-", "-o", lib / "libtorchext_cpu.so"),
        ],
        input=source,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (remove_directory, "is a source tree that was never built: pip install ."),
        (remove_library, "libtorchext_cpu.so is missing: install torchext again"),
        (cut_off, "libtorchext_cpu.so is damaged: install torchext again"),
        (put_garbage, "libtorchext_cpu.so is damaged: install torchext again"),
        (need_missing_symbol, "needs a function that torch"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_library(break_it, words, package):
    """One line of warning, in words; everything runs as plain PyTorch."""
    break_it(package / "lib")
    facts = probe(package.parent)
    (warning,) = facts["warnings"]
    assert words in warning
    assert "\n" not in warning
    assert words in facts["why"]


@pytest.mark.parametrize("text", [None, "{"])
def test_no_build_info(text, package):
    """It holds facts for people: the library loads without it."""
    file = package / "lib" / "build_info.json"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    facts = probe(package.parent)
    assert facts["warnings"] == []
    assert facts["why"] == ""


@pytest.mark.skipif(not shutil.which("nm"), reason="no nm")
@pytest.mark.parametrize("name", ["cpu", "cuda", "emulator"])
def test_libraries_lack_nothing_of_ours(name):
    """A launch that nobody defines would only show where the library is loaded: on a GPU."""
    library = _load.library_directory() / f"libtorchext_{name}.so"
    if not library.is_file():
        pytest.skip(f"no {library.name} here")
    command = ["nm", "-D", "--undefined-only", "--demangle", library]
    undefined = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert not [x for x in undefined.splitlines() if " U " in x and "torchext::" in x]
