"""Who may run while torch.export does, which changes nn.Module for all threads."""

import contextlib
import os
import threading


class Gate:
    """Calls pass side by side (`with gate:`). Some of them build, alone (`with gate.alone():`),
    once all others are through."""

    def __init__(self):
        self._open()
        os.register_at_fork(after_in_child=self._open)  # who was inside did not come along

    def _open(self):
        self._changed, self._mine = threading.Condition(), threading.local()
        self._passing, self._builder = 0, None

    def __enter__(self):
        self._mine.depth = getattr(self._mine, "depth", 0) + 1
        if self._mine.depth == 1:
            with self._changed:
                self._changed.wait_for(lambda: self._builder is None)
                self._passing += 1

    def __exit__(self, *exception):
        self._mine.depth -= 1
        if self._mine.depth == 0:
            with self._changed:
                self._passing -= 1
                self._changed.notify_all()

    def is_open(self):
        """Also for who builds."""
        return self._builder in (None, threading.get_ident())

    @contextlib.contextmanager
    def alone(self):
        me = threading.get_ident()
        if self._builder == me:
            yield
            return
        with self._changed:
            self._passing -= 1  # who waits disturbs nobody
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._builder is None and self._passing == 0)
            self._builder = me
        try:
            yield
        finally:
            with self._changed:
                self._builder = None
                self._passing += 1
                self._changed.notify_all()
