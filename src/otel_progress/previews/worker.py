"""Background thread of the previews, with bounded queues.

Only flush and close wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import build_thread_error
from otel_progress.locking import CallerLock
from otel_progress.processes import allows_daemon_threads
from otel_progress.suppression import run_suppressed

MAX_QUEUED_PREVIEWS: Final = 16
"""Maximum number of queued previews. Each holds a copy of the caller's value."""


MAX_QUEUED_TASKS: Final = 1_000
"""Maximum number of other queued tasks: content to delete or to mark as in use."""


class Worker:
    """Runs jobs in order on a daemon thread, which starts with the first job."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Drop the thread and all jobs, in a forked child."""
        self._lock = CallerLock()
        self._changed = threading.Condition(self._lock.lock)
        self._previews: deque[Callable[[], None]] = deque()
        self._tasks: deque[Callable[[], None]] = deque(maxlen=MAX_QUEUED_TASKS)
        self._thread: threading.Thread | None = None
        self._busy = False
        self._closed = False

    def offer(self, job: Callable[[], None]) -> bool:
        """Queue a preview. Return False if the queue is full or the worker is closed."""
        # Why not queued: a caller that interrupts its own thread must not wait for itself.
        if self._lock.is_interrupting():
            return False
        with self._lock.lock:
            if self._closed or len(self._previews) >= MAX_QUEUED_PREVIEWS:
                return False
            self._previews.append(job)
            return self._start()

    def submit_background(self, job: Callable[[], None]) -> None:
        """Queue another task. It runs when no preview is queued."""
        self._lock.run(self._add_task, job)

    def _add_task(self, job: Callable[[], None]) -> None:
        if not self._closed:
            self._tasks.append(job)
            self._start()

    def flush(self, timeout: float) -> bool:
        """Wait until all jobs have ended.

        Return False if ``timeout`` seconds were not enough.
        """
        if self._lock.is_interrupting():
            return False
        return self._lock.wait_for(
            self._changed, lambda: not (self._busy or self._previews or self._tasks), timeout
        )

    def close(self, timeout: float) -> bool:
        """Accept no further jobs, and wait like :meth:`flush`.

        A hanging thread ends with the process.
        """
        self._closed = True
        if self._lock.is_interrupting():
            return False
        done = self.flush(timeout)
        with self._lock.lock:
            self._previews.clear()
            self._tasks.clear()
            self._changed.notify_all()
            thread = self._thread
        if done and thread is not None:
            thread.join(1.0)
        return done

    def _start(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(
                target=run_suppressed(partial(self._run, self._lock, self._changed)),
                name="otel-progress-previews",
                daemon=allows_daemon_threads(),
            )
            try:
                thread.start()
            except RuntimeError as error:  # too many threads, or the interpreter is shutting down
                self._previews.clear()
                self._tasks.clear()
                report_internal_error(
                    "previews", "The preview thread could not be started", error=build_thread_error(error)
                )
                return False
            self._thread = thread
        self._changed.notify_all()
        return True

    def _run(self, lock: CallerLock, changed: threading.Condition) -> None:
        while True:
            lock.run_deferred()
            with lock.lock:
                self._busy = False
                changed.notify_all()
                changed.wait_for(lambda: self._previews or self._tasks or self._closed)
                if not (self._previews or self._tasks):
                    return
                job = (self._previews or self._tasks).popleft()
                self._busy = True
            try:
                job()
            except Exception as error:
                report_internal_error("previews", "A preview task failed", error=error)
            del job  # it may hold large data
            time.sleep(0)  # let the work run first
