"""Worker processes as seen from the process that runs the benchmark."""

import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe

ANSWER_S = 600  # the longest that a build (compiling, autotuning) may take

# A core for each thread. Unbound, two threads of a pool now and then share one for a whole turn:
# they spin, so the scheduler sees no reason to move them. With other programs running, that was so
# in 40% of the turns, and in 10% when bound (2 cores, load 6).
BINDING = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
# How long idle threads spin: each library as its users have it.
DEFAULTS = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
)


class WorkerError(Exception):
    """What went wrong in a worker, in one line."""


class Remote:
    """A worker process. It runs from a request to its answer; otherwise it is stopped.

    A waiting process is not idle: OpenMP, TBB and ONNX Runtime spin for milliseconds after each
    parallel region and would take cores from whoever's turn it is. SIGSTOP ends that for all
    libraries alike, without settings that no user has.
    """

    def __init__(self, contender, threads):
        self.contender, self.threads = contender, threads
        self.process = None

    def start(self):
        environment = {k: v for k, v in os.environ.items() if k not in DEFAULTS}
        environment |= BINDING | {
            "OMP_NUM_THREADS": str(self.threads),
            "TORCHEXT_DISABLE": "1",  # PyTorch's own ops in all but ours, whose env says otherwise
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TORCHINDUCTOR_COMPILE_THREADS": str(self.threads),
            "TORCH_WARM_POOL": "0",  # no processes of compilers beside the timed calls
        }
        kind = type(self.contender)
        contender = [kind.__module__, kind.__name__] if self.contender else []
        if self.contender:
            environment |= self.contender.env
        self.connection, theirs = Pipe()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torchext.bench.worker", str(theirs.fileno()), *contender],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # Ctrl-C reaches only the parent, which ends them all
        )
        theirs.close()

    def request(self, *request):
        """Sends without waiting; a worker that died is replaced first."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        self.process.send_signal(signal.SIGCONT)
        try:
            self.connection.send(request)
        except OSError:
            self._died()

    def answer(self):
        if not self.connection.poll(ANSWER_S):
            self.stop()
            raise WorkerError(f"no answer in {ANSWER_S} s")
        try:
            status, value = self.connection.recv()
        except (EOFError, OSError):
            self._died()
        self.process.send_signal(signal.SIGSTOP)
        if status == "error":
            raise WorkerError(value)
        return value

    def ask(self, *request):
        self.request(*request)
        return self.answer()

    def _died(self):
        status = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        self.stop()
        raise WorkerError(
            f"worker ended with status {status}: {lines[-1] if lines else 'no words'}"
        )

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.connection.close()
            self.log.close()
            self.process = None


def ask_all(requests):
    """Sends {key: (remote, request)} to all at once; {key: (value, "") or (None, error)}."""
    answers, waiting = {}, {}
    for key, (remote, request) in requests.items():
        try:
            remote.request(*request)
            waiting[key] = remote
        except WorkerError as error:
            answers[key] = None, str(error)
    for key, remote in waiting.items():
        try:
            answers[key] = remote.answer(), ""
        except WorkerError as error:
            answers[key] = None, str(error)
    return answers
