"""Worker processes as seen from the process that runs the benchmark."""

import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe

ANSWER_S = 600  # the longest that a build (compiling, autotuning) may take

# Each library reads its own of these: nobody gets any, so that all run as they do by default.
POOL_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_PROC_BIND", "OMP_PLACES")


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
        environment = {k: v for k, v in os.environ.items() if k not in POOL_SETTINGS}
        environment |= {
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compilers beside the timed calls
        }
        kind = type(self.contender)
        contender = [kind.__module__, kind.__name__] if self.contender else []
        if self.contender:
            environment |= self.contender.env
        self.connection, theirs = Pipe()
        self.log = tempfile.TemporaryFile()
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
        raise WorkerError(f"worker ended with status {status}: {lines[-1] if lines else 'no words'}")

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
