"""Which of several functions is the fastest, on a machine that others use too."""

import time

import torch

BURST = 0.003  # seconds that one runs before the next has its turn: its threads stay awake
PATIENCE = 3  # turns without news after which minima are believed
MOST_SECONDS = 0.4  # for more turns than these:
LEAST_TURNS = 2


def _at_once():
    """A CPU has done what it was told to."""


def waiter(values):
    """A function that waits until the device of these tensors has done what it was told to."""
    tensors = [x for x in values if isinstance(x, torch.Tensor)]
    device = next((x.device for x in tensors if x.device.type == "cuda"), None)
    return _at_once if device is None else lambda: torch.cuda.synchronize(device)


def least_times(functions, most_seconds=MOST_SECONDS, wait=_at_once):
    """The least time of each, the functions taking turns so that noise meets all alike."""
    best = [float("inf")] * len(functions)
    for function in functions:
        function()
    turns, quiet, end = 0, 0, time.perf_counter() + most_seconds
    while quiet < PATIENCE and (turns < LEAST_TURNS or time.perf_counter() < end):
        turns += 1
        before = list(best)
        for i, function in enumerate(functions):
            best[i] = min(best[i], _burst(function, wait))
        news = any(new < 0.97 * old for new, old in zip(best, before, strict=True))
        quiet = 0 if news else quiet + 1
    return tuple(best)


def _burst(function, wait):
    best, end = float("inf"), time.perf_counter() + BURST
    wait()
    while True:
        start = time.perf_counter()
        function()
        wait()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
