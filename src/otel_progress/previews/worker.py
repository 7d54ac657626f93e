"""One thread for everything about previews that takes time, and a bounded queue before it. Nobody waits for either but at the end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from otel_progress.diagnostics import report_internal_error

MAX_WAITING: Final = 16
"""Previews that may wait to be made; each holds a copy of what the caller passed."""


MAX_CHORES: Final = 1_000
"""Other things to be done that may wait: content to be deleted or marked as in use."""


class Worker:
    """Does what it is given in order, from a daemon thread that starts with the first of it."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start over without a thread and with nothing to do: what a forked child does."""
        self._changed = threading.Condition(threading.Lock())
        self._previews: deque[Callable[[], None]] = deque()
        self._chores: deque[Callable[[], None]] = deque(maxlen=MAX_CHORES)
        self._thread: threading.Thread | None = None
        self._busy = False
        self._closed = False

    def offer(self, job: Callable[[], None]) -> bool:
        """Leave a preview to be made; False when too many wait, or at the end."""
        with self._changed:
            if self._closed or len(self._previews) >= MAX_WAITING:
                return False
            self._previews.append(job)
            return self._start()

    def submit_background(self, job: Callable[[], None]) -> None:
        """Leave something else to be done, when there is nothing to be made."""
        with self._changed:
            if not self._closed:
                self._chores.append(job)
                self._start()

    def flush(self, timeout: float) -> bool:
        """Wait until all is done; False when it is not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._busy or self._previews or self._chores), timeout)

    def close(self, timeout: float) -> bool:
        """Take nothing more, and wait as :meth:`flush` does. A thread that hangs is left behind: it ends with the process."""
        with self._changed:
            self._closed = True
        done = self.flush(timeout)
        with self._changed:
            self._previews.clear()
            self._chores.clear()
            self._changed.notify_all()
            thread = self._thread
        if done and thread is not None:
            thread.join(1.0)
        return done

    def _start(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(
                target=self._run, args=(self._changed,), name="otel-progress-previews", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # too many of them, or the interpreter is about to end
                self._previews.clear()
                self._chores.clear()
                report_internal_error(
                    "previews", "the thread that makes previews could not be started", error=error
                )
                return False
            self._thread = thread
        self._changed.notify_all()
        return True

    def _run(self, changed: threading.Condition) -> None:
        while True:
            with changed:
                self._busy = False
                changed.notify_all()
                changed.wait_for(lambda: self._previews or self._chores or self._closed)
                if not (self._previews or self._chores):
                    return
                job = (self._previews or self._chores).popleft()
                self._busy = True
            try:
                job()
            except Exception as error:
                report_internal_error("previews", "a preview could not be dealt with", error=error)
            del job  # what it holds may be large
            time.sleep(0)  # the work goes first
