"""The process that one contender lives in: python -m torchext.bench.worker, started by team.py.

It answers one request at a time and is stopped (SIGSTOP) whenever it is not its turn. Requests are
tuples (method name, arguments...), answers ("ok", value) or ("error", text).
"""

import ctypes
import dataclasses
import importlib
import re
import signal
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from .. import _memory
from .case import find, flatten
from .contenders import AbsentError
from .gate import check, judge
from .roofline import Yardsticks
from .timing import CpuTimer, CudaTimer


class Worker:
    """What every worker can do: find the case, and take a turn at something that was built."""

    def __init__(self):
        self.calls, self.timers = {}, {}

    def forget(self):
        """Leaves the last case; the memory that the process has all the same, None if unknown."""
        self.calls, self.timers, self.case = {}, {}, None
        _keep_memory(False)
        _memory.give_back()
        return _memory_of("VmRSS")

    def load(self, module, name, device, threads):
        self.forget()
        case = find(module, name)
        self.case = dataclasses.replace(case, device=device)
        self.threads = case.threads or threads
        torch.set_num_threads(self.threads)
        torch.set_grad_enabled(case.training)
        torch.manual_seed(0)  # weights of modules are equal in every worker

    def add(self, key, call):
        self.calls[key] = call
        self.timers[key] = CudaTimer() if self.case.device == "cuda" else CpuTimer()

    def turn(self, key, seconds):
        """(samples, calls per sample)"""
        _keep_memory(True)
        timer = self.timers[key]
        samples = timer.turn(self.calls[key], seconds)
        return samples, timer.calls


class ContenderWorker(Worker):
    def __init__(self, module, name):
        super().__init__()
        self.contender = getattr(importlib.import_module(module), name)()

    def version(self, device):
        """(version, "") or ("", why it is absent)"""
        try:
            return self.contender.version(device), ""
        except AbsentError as reason:
            return "", str(reason)

    def build(self, case, judged):
        self.load(*case)
        self.add("call", self.contender.build(self.case))
        _memory.give_back()
        return self.check(judged)

    def peak_bytes(self):
        """The most memory the process has during a call, libraries and all; None if unknown."""
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        except OSError:
            return None
        self.calls["call"]()
        return _memory_of("VmHWM")

    def check(self, judged):
        """The Verdict on a new output."""
        outputs = flatten(self.calls["call"]())
        with torch.no_grad():
            return check(self.case, outputs, torch.load(judged))


class JudgeWorker(Worker):
    """Computes the reference, and measures the machine's limits in turn with the contenders."""

    def __init__(self):
        super().__init__()
        self.yardsticks = Yardsticks()
        self.directory = tempfile.TemporaryDirectory(prefix="torchext-bench-")

    def judge(self, case):
        """The file that the judged outputs are in."""
        self.load(*case)
        file = f"{self.directory.name}/judged.pt"
        torch.save(judge(self.case), file)
        return file

    def build(self, case):
        """{yardstick: bytes or FLOPs per call}"""
        self.load(*case)
        found = self.yardsticks.build(self.case, self.threads)
        for key, (call, _) in found.items():
            self.add(key, call)
        return {key: amount for key, (_, amount) in found.items()}


def main(descriptor, *contender):
    if sys.platform == "linux":  # a stopped worker must not outlive its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    connection = Connection(int(descriptor))
    worker = ContenderWorker(*contender) if contender else JudgeWorker()
    while True:
        try:
            method, *arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("ok", getattr(worker, method)(*arguments)))
        except Exception as error:
            traceback.print_exc()
            connection.send(("error", in_a_line(error)))


def _keep_memory(kept):
    """Whether malloc keeps what is freed. Where calls are timed, it does: else it is luck whether a
    large result's memory goes back to the system, to be made anew five times as slowly. Where
    memory is measured, it must not: what building freed would count. 32 and 64 MB are the
    thresholds that glibc itself moves to in a process that frees as much at once."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_MMAP_MAX, 0 if kept else 1 << 16)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1 if kept else 64 << 20)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h's


def _memory_of(key):
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return 1024 * int(re.search(rf"{key}:\s*(\d+) kB", status)[1])


def in_a_line(error):
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


if __name__ == "__main__":
    main(*sys.argv[1:])
