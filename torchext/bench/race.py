"""Runs a case: the gate first, then all contenders in turns, in short bursts, for many rounds."""

import contextlib
import dataclasses
import math
import random
import statistics
import time
from pathlib import Path

from . import machine, stats
from .case import Case
from .contenders import CONTENDERS
from .gate import Verdict
from .team import Remote, WorkerError, ask_all

TURN_S = 0.02
ENOUGH_ROUNDS, MOST_S = 7, 40  # so many will do where calls are so long that all take more time
MOST_KEPT = 5 << 28  # bytes of a process between cases: the libraries need less


@dataclasses.dataclass
class Entry:
    """What became of one contender in one case."""

    ours: bool
    status: str  # ok; failed: wrong or crashed; absent: can't run here; untimed: ours failed
    reason: str = ""
    version: str = ""
    verdict: Verdict = dataclasses.field(default_factory=Verdict)
    rounds: list = dataclasses.field(default_factory=list)  # samples, round by round
    calls: int = 1  # timed together in each sample
    peak_bytes: int | None = None  # of memory, during a call
    speedup: dict | None = None  # ours only: see stats.speedups

    def drop(self, status, reason):
        self.status, self.reason, self.rounds = status, reason, []

    @property
    def samples(self):
        return [sample for samples in self.rounds for sample in samples]


@dataclasses.dataclass
class Outcome:
    case: Case
    threads: int
    entries: dict  # contender's name -> Entry
    limits: dict | None = None  # {"bytes_per_s", "flops_per_s"}, measured in the same rounds
    intruders: float = 0.0  # threads of other programs that ran meanwhile, on average
    failed: str = ""  # why the case has no result


class Race:
    """The worker processes, kept from case to case. A context manager: leaving ends them."""

    def __init__(self, threads, rounds, contenders=CONTENDERS, turn_s=TURN_S):
        self.threads, self.rounds, self.turn_s = threads, rounds, turn_s
        self.contenders = {contender.name: contender for contender in contenders}
        self.team = {name: Remote(c, threads) for name, c in self.contenders.items()}
        self.judge = Remote(None, threads)
        self.versions = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for remote in (self.judge, *self.team.values()):
            remote.stop()

    def run(self, module, case):
        """The Outcome of `case`, which `module`.cases() lists."""
        outcome = self._run(module, case)
        for remote in self.team.values():  # compilers never part with what they once compiled
            with contextlib.suppress(WorkerError):
                if remote.process is not None and (remote.ask("forget") or 0) > MOST_KEPT:
                    remote.stop()
        return outcome

    def _run(self, module, case):
        identity = module, case.name, case.device, self.threads
        entries = self._enter(case)
        outcome = Outcome(case, case.threads or self.threads, entries)
        try:
            judged = self.judge.ask("judge", identity)
        except WorkerError as error:
            return self._give_up(outcome, f"no reference: {error}")
        # Ours alone: it chooses by timing.
        self._gate(_runs(entries, ours=True), entries, "build", identity, judged)
        if not _runs(entries, ours=True):
            return self._give_up(outcome, _why_not(entries))
        self._weigh(_runs(entries, ours=True), entries)
        others = _runs(entries, ours=False)
        for names in [others] if _fit(entries, len(others)) else [[name] for name in others]:
            self._gate(names, entries, "build", identity, judged)
        self._weigh(_runs(entries, ours=False), entries)
        self._time(case, identity, outcome)
        self._gate(_runs(entries), entries, "check", judged)
        if not _runs(entries, ours=True):
            return self._give_up(outcome, _why_not(entries))
        for name in _runs(entries, ours=True):
            others = {n: entries[n].rounds for n in _runs(entries, ours=False)}
            entries[name].speedup = stats.speedups(entries[name].rounds, others)
        return outcome

    def _enter(self, case):
        """An Entry for each contender that the case concerns; workers start on first use."""
        names = [name for name, c in self.contenders.items() if c.applies(case)]
        unknown = {n: (self.team[n], ("version", case.device)) for n in names}
        unknown = {n: request for n, request in unknown.items() if n not in self.versions}
        for name, (answer, error) in ask_all(unknown).items():
            self.versions[name] = answer or ("", error)
        entries = {}
        for name in names:
            version, absent = self.versions[name]
            ours, status = self.contenders[name].ours, "absent" if absent else "ok"
            entries[name] = Entry(ours, status, absent, version)
        return entries

    def _gate(self, names, entries, *request):
        """Lets these contenders answer `request` with the Verdicts on their outputs."""
        for name, answer in ask_all({n: (self.team[n], request) for n in names}).items():
            verdict, error = answer
            if verdict:
                entries[name].verdict, error = verdict, verdict.reason
            if error:
                entries[name].drop("failed", error)

    def _weigh(self, names, entries):
        for name in names:
            with contextlib.suppress(WorkerError):  # who dies of it is found out later
                entries[name].peak_bytes = self.team[name].ask("peak_bytes")

    def _time(self, case, identity, outcome):
        """Fills in the entries' rounds and the machine's limits."""
        try:
            amounts = self.judge.ask("build", identity)
        except WorkerError:  # no roofline then
            amounts = {}
        fastest = dict.fromkeys(amounts, math.inf)
        turns = [(name, "call", self.turn_s) for name in _runs(outcome.entries)]
        turns += [("", yardstick, self.turn_s / 2) for yardstick in amounts]
        order = random.Random(case.name)  # another order each round: nobody always follows nobody
        intruders, start = [], time.perf_counter()
        for done in range(self.rounds):
            if done >= ENOUGH_ROUNDS and time.perf_counter() - start > MOST_S:
                break
            order.shuffle(turns)
            intruders.append(0 if case.device == "cuda" else _intruders())
            for turn in list(turns):
                samples = self._turn(outcome, *turn)
                if samples is None:
                    turns.remove(turn)
                elif not turn[0]:
                    fastest[turn[1]] = min(fastest[turn[1]], *samples)
        outcome.intruders = statistics.fmean(intruders)
        rates = {yardstick: amounts[yardstick] / fastest[yardstick] for yardstick in amounts}
        if amounts and min(rates.values()) > 0:
            multiply_add = max(rates.get("peak", 0.0), rates.get("matmul", 0.0))
            outcome.limits = {"bytes_per_s": rates["copy"], "flops_per_s": multiply_add}

    def _turn(self, outcome, name, key, seconds):
        """One turn's samples, kept if a contender's ("" is the judge); None if its worker broke."""
        try:
            samples, calls = (self.team[name] if name else self.judge).ask("turn", key, seconds)
        except WorkerError as error:
            if name:
                outcome.entries[name].drop("failed", str(error))
            return None
        if name:
            entry = outcome.entries[name]
            entry.rounds.append(samples)
            entry.calls = calls
        return samples

    def _give_up(self, outcome, reason):
        """No speed is reported on a red gate, for nobody."""
        outcome.failed = reason
        for name in _runs(outcome.entries):
            outcome.entries[name].drop("untimed", reason)
        return outcome


def _runs(entries, ours=None):
    """The names that are still in the race: all, only ours or only the others."""
    return [n for n, e in entries.items() if e.status == "ok" and ours in (None, e.ours)]


def _fit(entries, others):
    """Whether there is memory for so many to build at once: exporters and compilers have a model
    several times. Nobody knows for how long; half as much again as ours in use has been enough."""
    largest = max(entry.peak_bytes or 0 for entry in entries.values() if entry.ours)
    return 1.5 * largest * others <= machine.free_memory()


def _why_not(entries):
    """Why none of ours runs."""
    return next(entry.reason for entry in entries.values() if entry.ours)


def _intruders():
    """Threads that want a core while all workers are stopped: they distort what we measure."""
    time.sleep(0.003)  # until the last worker has stopped
    try:
        running = Path("/proc/loadavg").read_text().split()[3].split("/")[0]
    except OSError:
        return 0
    return int(running) - 1
