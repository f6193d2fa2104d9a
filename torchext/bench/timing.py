"""How one contender spends its turn: an untimed call, then timed ones until the turn is over."""

import gc
import math
import time
from itertools import repeat

SAMPLE_S = 1e-4  # shorter calls are timed several at once: reading the clock takes 0.1 us
WARM_S = 0.2  # longer calls need no untimed one before them: caches and thread pools wake meanwhile


class CpuTimer:
    """Seconds per call by the host's clock."""

    def __init__(self):
        self.calls = 1  # per sample
        self.slow = False

    def turn(self, call, seconds):
        """Samples from `seconds` of calls, at least one."""
        if not self.slow:
            call()  # wakes the thread pool and brings the data back into this core's caches
        clock = time.perf_counter
        gc.disable()
        start = clock()
        call()
        once, end = clock() - start, start + seconds
        self.slow = once > WARM_S
        # A slow moment must not decide for all turns: the fastest such call does.
        self.calls = max(self.calls, math.ceil(SAMPLE_S / once))
        samples = [once] if self.calls == 1 else []  # of whole models often the turn's only one
        while not samples or clock() < end:
            start = clock()
            for _ in repeat(None, self.calls):
                call()
            samples.append((clock() - start) / self.calls)
        gc.enable()
        return samples


class CudaTimer:
    """Seconds per call by CUDA events, each call with a cold L2 cache.

    Overwriting the cache also keeps the GPU busy while the host gets ahead, so that the events
    enclose the kernels and not the time that Python takes to launch them.
    """

    calls = 1
    AHEAD = 16  # calls in flight before the host waits

    def __init__(self):
        import torch

        self.cuda = torch.cuda
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        size = max(4 * cache, 2**29)  # 0.1 ms on an H200: longer than Python takes to launch
        self.scratch = torch.empty(size, dtype=torch.int8, device="cuda")

    def turn(self, call, seconds):
        call()
        self.cuda.synchronize()
        samples = []
        end = time.perf_counter() + seconds
        while not samples or time.perf_counter() < end:
            events = [self._timed(call) for _ in range(self.AHEAD)]
            self.cuda.synchronize()
            samples += [start.elapsed_time(stop) / 1e3 for start, stop in events]
        return samples

    def _timed(self, call):
        start, stop = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.scratch.zero_()
        start.record()
        call()
        stop.record()
        return start, stop
