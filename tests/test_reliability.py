"""What outlasts a single call: threads, forks, memory, and what the linker might mix up."""

import ctypes
import gc
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from stack import gradients, make_twins, run_python
from torch.utils.data import DataLoader, Dataset

import torchext
from torchext import _load

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
F = torchext.nn.functional
# Large enough for every op to be split among threads.
SHAPE = (2, 64, 57, 61)


def pools(x):
    """The outputs and gradients of every pooling op, by nothing but torchext's kernels: without
    autograd, whose own threads don't survive a fork."""
    ops, size = torch.ops.torchext, list(x.shape[-2:])
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    window = ([3, 3], [2, 2], [1, 1])
    y, offsets = ops.max_pool2d(x, *window, [1, 1], False)
    average = ops.avg_pool2d(x, *window, False, True, None)
    grid = ops.adaptive_avg_pool2d(x, [5, 7])
    return [
        y,
        ops.max_pool2d_inference(x, *window, [1, 1], False),
        ops.max_pool2d_indices(offsets, size, *window, [1, 1], False),
        ops.max_pool2d_backward(y, offsets, size, *window, [1, 1], False),
        average,
        ops.avg_pool2d_backward(average, size, channels_last, *window, False, True, None),
        grid,
        ops.adaptive_avg_pool2d_backward(grid, size, channels_last),
    ]


def make_inputs():
    torch.manual_seed(0)
    return [
        torch.randn(SHAPE).to(dtype, memory_format=memory_format)
        for dtype in (torch.float32, torch.bfloat16)
        for memory_format in (torch.contiguous_format, torch.channels_last)
    ]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_fresh_process(function, *arguments):
    """function(*arguments) in a new interpreter, free of what other tests left behind."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(function, *arguments).result(timeout=300)


# Threads.


def test_python_threads(two_threads):
    """Calls at the same time, from threads that also change the number of threads, do not meet."""
    inputs = make_inputs()
    expected = [pools(x) for x in inputs]

    def work(k):
        for repeat in range(10):
            torch.set_num_threads(1 + (repeat + k) % 3)
            for y, right in zip(pools(inputs[k]), expected[k], strict=True):
                if not torch.equal(y, right):
                    return f"thread {k}, repeat {repeat}"
        return "right"

    with ThreadPoolExecutor(len(inputs)) as executor:
        assert list(executor.map(work, range(len(inputs)))) == ["right"] * len(inputs)


# Processes.


def run_forked(function):
    """Runs function() in a forked child, ended by a signal after 30 s; the child's exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # not through pytest's own end


def use_thread_pools(inputs):
    """Parallel regions of torch and of torchext, whose threads do not survive a fork."""
    torch.randn(1 << 20).exp_()
    return [pools(x) for x in inputs]


def bits(x):
    """As numpy's integers: its comparisons, unlike torch's, do not wait for lost threads."""
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize]).numpy()


def test_fork(two_threads):
    """A forked child neither hangs nor errs; nor does its own child."""
    inputs = make_inputs()
    expected = use_thread_pools(inputs)

    def check():
        for x, right in zip(inputs, expected, strict=True):
            for a, b in zip(pools(x), right, strict=True):
                assert np.array_equal(bits(a), bits(b))

    def check_and_fork():
        check()
        assert run_forked(check) == 0

    assert run_forked(check_and_fork) == 0
    assert run_forked(check_and_fork) == 0  # and once more, from the same parent


class Pooled(Dataset):
    """Images that a worker pools."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return F.max_pool2d(torch.full(SHAPE[1:], float(index)), 3, 2, 1)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader(start, two_threads):
    use_thread_pools(make_inputs())
    loader = DataLoader(
        Pooled(), batch_size=2, num_workers=1, multiprocessing_context=start, timeout=60
    )
    values = [batch.unique().tolist() for batch in loader]
    assert values == [[0, 1], [2, 3]]


# Memory.


class Mallinfo2(ctypes.Structure):
    _names = (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"  # glibc's
    )
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split(" ")]


def memory_in_use():
    """(bytes that malloc gave out, resident bytes)."""
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo2
    info = libc.mallinfo2()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return info.uordblks + info.hblkhd, pages * os.sysconf("SC_PAGE_SIZE")


def memory_growth(calls):
    """How much memory_in_use() grows over so many training and inference steps of everything."""
    torch.set_num_threads(1)  # a shared machine's other threads are slow to wake
    ours, _ = make_twins(channels=4)
    x = torch.randn(1, 3, 11, 13)
    inputs = [x, x.to(memory_format=torch.channels_last)]

    def steps(count):
        for _ in range(count):
            for x in inputs:
                gradients(ours, x)
                with torch.inference_mode():
                    ours(x)

    steps(100)
    before = memory_in_use()
    steps(calls)
    return [now - then for now, then in zip(memory_in_use(), before, strict=True)]


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counts by glibc 2.33's malloc"
)
def test_memory_stays_flat():
    calls = 1000
    allocated, resident = in_fresh_process(memory_growth, calls)
    # malloc's smallest block is 32 bytes: less than that per call means that nothing is left over
    # by each. Resident pages also count what malloc does not: 4 MiB allow for its free lists.
    assert allocated < 32 * calls
    assert resident < 4 << 20


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the system has none"
)
def test_large_results_ask_for_large_pages():
    y = torch.ops.torchext.activation_inference(torch.zeros(1 << 22), 1)
    middle, inside, flags = y.data_ptr() + (1 << 23), False, []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if place := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(place[1], 16) <= middle < int(place[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line.split()
    assert "hg" in flags


def test_guard_pages():
    """No kernel of any ISA touches memory next to its tensors."""
    run_python(HERE / "guard_pages.py")


def test_guard_pages_kill():
    """They do end a program that reads one element too far."""
    run_python(HERE / "guard_pages.py", "overrun", status=-signal.SIGSEGV)


# Objects compiled for one ISA.


@pytest.mark.parametrize("isa", _load.build_info()["isas"])
@pytest.mark.parametrize(
    "source",
    [s for s in sorted((CSRC / "cpu").glob("*.cpp")) if s.stem != "kernels"],  # compiled once
    ids=lambda s: s.stem,
)
def test_isa_symbols(isa, source, tmp_path):
    """An ISA's object shares nothing with others: the linker keeps one of several equal symbols,

    and that might be AVX-512 code for a CPU without it. Without optimization nothing is hidden by
    inlining: whatever the source could ever share shows.
    """
    flags = _load.build_info()["isas"][isa].split()
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    options = ["-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-w", *flags]
    subprocess.run([*compiler, *options, "-c", source, "-o", tmp_path / "object.o"], check=True)
    symbols = subprocess.run(
        ["nm", "--defined-only", "--extern-only", "--demangle", tmp_path / "object.o"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert symbols
    names = [symbol.split(" ", 2)[2] for symbol in symbols]
    assert [name for name in names if not name.startswith(f"torchext::cpu::{isa}::")] == []
