"""The notice given where PyTorch's own ops run instead of a kernel: never silently slow."""

import contextlib
import os
import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)
_CHOICES = ("warn", "error", "silent")


_listeners = []  # who is told instead of the user, the last first


class FallbackWarning(UserWarning):
    """A torchext op ran as plain PyTorch; the text says which and why."""


def notice(op, why):
    """Says, once per site in the user's code, that `op` runs without a kernel."""
    if _listeners:
        return _listeners[-1](op, why)
    choice = os.environ.get("TORCHEXT_FALLBACK", "warn")
    if choice not in _CHOICES:
        raise RuntimeError(
            f"TORCHEXT_FALLBACK: got {choice!r}, expected one of {', '.join(_CHOICES)}"
        )
    if choice == "silent":
        return
    text = f"torchext: {op} runs as plain PyTorch here: {why}"
    if choice == "error":
        raise RuntimeError(text)
    frame, depth = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, FallbackWarning, stacklevel=depth)


@contextlib.contextmanager
def told_to(listener):
    """Within, notices go to listener(op, why) alone."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()
