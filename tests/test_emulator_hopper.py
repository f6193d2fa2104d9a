"""The emulator's Hopper: what lanes hold against CuTe, and a kernel by TMA, mbarriers and wgmma
with and without its bugs. No kernel of csrc/cuda uses these yet."""

import ctypes
import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch

from torchext import _load, emulator

HERE = Path(__file__).parent
SOURCES = HERE / "emulated"
pytestmark = pytest.mark.skipif(bool(emulator.why_not()), reason=emulator.why_not())


def cute_headers():
    """CuTe's, in the package nvidia-cutlass; None if it is not installed."""
    found = importlib.util.find_spec("cutlass_library")
    return found and Path(found.origin).parent / "source/include"


def cuda_headers():
    for path in (Path("/usr/local/cuda/include"), *Path("/usr/lib").glob("cuda*/include")):
        if (path / "cuda_runtime.h").is_file():
            return path
    return None


@pytest.mark.skipif(not cute_headers(), reason="no CuTe: pip install --no-deps nvidia-cutlass")
@pytest.mark.skipif(not cuda_headers(), reason="no CUDA headers, which CuTe includes")
def test_layouts_are_those_of_cute(tmp_path):
    program = tmp_path / "layouts"
    cuda = cuda_headers()
    headers = [f"-I{path}" for path in (cute_headers(), cuda, cuda / "cccl")]
    command = ["g++", "-std=c++17", "-w", *headers, SOURCES / "layouts.cpp", "-o", program]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) > 35000


# In the order of the kernel's enum Bug: what is found of each.
BUGS = {
    "none": "",
    "expects more bytes than come": "deadlock",
    "expects fewer bytes than come": "transaction in-flight",
    "waits for the wrong parity": "deadlock",
    "barriers' initialisation not fenced": "proxy-fence",
    "barriers' initialisation not waited for": "mbarrier race-shared uninitialised-shared",
    "fills stages that are in use": "in-flight race-shared mbarrier",
    "reads stages that are not full": "in-flight race-shared uninitialised-shared",
    "gives stages back too early": "in-flight race-shared",
    "never waits for its products": "in-flight unwaited",
    "no wgmma.fence": "wgmma",
    "a wrong stride in a descriptor": "result",
    "forgets a step's sums": "result",
    "plain stores before wgmma, not fenced": "proxy-fence",
    "a plain store to a barrier": "mbarrier race-shared",
    "a tile at 128 bytes": "misaligned",
}


@pytest.fixture(scope="module")
def multiply(tmp_path_factory):
    """The kernel: (a, b, bug) -> (c, what was found)."""
    library = tmp_path_factory.mktemp("hopper") / "hopper.so"
    emulated = _load.build_info()["emulated"]
    object_file = library.with_suffix(".o")
    include = f"-I{HERE.parent / 'csrc/emulator'}"
    compile_it = f"{emulated} {include} -c {SOURCES / 'hopper.cu'} -o {object_file}"
    subprocess.run(compile_it, shell=True, check=True)
    compiler = emulated.split(" -std")[0].split()
    link = [*compiler, "-shared", object_file, "-o", library]
    subprocess.run([*link, _load.library_directory() / "libtorchext_emulator.so"], check=True)
    function = ctypes.CDLL(str(library)).multiply
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 4

    def call(a, b, bug):
        c = torch.full((a.shape[0], b.shape[0]), torch.nan)
        sizes = (a.shape[0], b.shape[0], a.shape[1])
        with emulator.settings(shared_bytes=227 * 1024):
            found = function(a.data_ptr(), b.data_ptr(), c.data_ptr(), *sizes, bug)
        return c, found.decode()

    return call


def operands():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-4, 5, (128, 320), generator=generator).bfloat16()
    return a, torch.randint(-4, 5, (64, 320), generator=generator).bfloat16()


@pytest.mark.parametrize("seed", range(1, 21))
def test_clean_kernel(multiply, seed):
    a, b = operands()
    with emulator.settings(seed=seed, late_copies=seed % 2):
        c, found = multiply(a, b, 0)
    assert not found
    assert torch.equal(c, a.float() @ b.float().T)


@pytest.mark.parametrize("bug", list(BUGS)[1:])
def test_bugs_are_found(multiply, bug):
    a, b = operands()
    c, found = multiply(a, b, list(BUGS).index(bug))
    kinds = BUGS[bug].split()
    if found:
        assert found.split("emulator: ", 1)[1].split(":")[0] in kinds, found
    else:
        assert "result" in kinds
        assert not torch.equal(c, a.float() @ b.float().T)
