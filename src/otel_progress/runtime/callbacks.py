"""Callbacks for starts, updates and ends of operations.

Each callback has its own thread and bounded queue, so that one that raises or hangs delays no
other. Starts and ends are delivered immediately and in order. Updates are coalesced: only the
newest one per operation and interval is delivered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ConfigurationError
from otel_progress.locking import CallerLock
from otel_progress.operations import OperationSnapshot
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.text import truncate

CallbackEvent: TypeAlias = Literal["started", "updated", "completed", "failed", "cancelled", "skipped"]
"""Change of an operation: its start, an update, or the status with which it ended."""


Callback: TypeAlias = Callable[[CallbackEvent, OperationSnapshot], object]
"""Called with the event and the operation at that time, including its levels. It runs in its own
thread.
"""


MAX_WAITING: Final = 1_000
"""Maximum number of starts and ends that wait for a slow callback. Beyond it the oldest are dropped
and counted.
"""


_NEVER: Final = float("-inf")
"""Time of the last delivery before the first one. Why not 0: the monotonic clock may have started
less than an interval ago, with the machine.
"""


class CallbackWorker:
    """Queue and thread of one callback."""

    def __init__(
        self,
        callback: Callback,
        interval: float,
        on_dropped: Callable[[int], None],
        *,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.callback = callback
        self._interval = interval
        self._on_dropped = on_dropped
        self._max_waiting = max_waiting
        self._edges: deque[tuple[CallbackEvent, OperationSnapshot]] = deque()
        """Waiting starts and ends."""
        self._updates: dict[str, OperationSnapshot] = {}
        """Newest waiting update of each run."""
        self._delivered: dict[str, float] = {}
        """Monotonic time of the last delivered update of each run."""
        self._ended_runs: dict[str, None] = {}
        """Runs that ended recently. A later update of such a run is ignored."""
        self._lock = CallerLock()
        self._changed = threading.Condition(self._lock.lock)
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._start_thread()

    def _start_thread(self) -> None:
        """Start the thread.

        If that fails, the next event tries again, and a flush delivers without a thread.
        """
        self._thread = start_daemon_thread(
            self._run,
            "callback",
            "callback",
            "The thread of a callback could not be started",
            is_suppressed=False,
        )

    def submit(self, event: CallbackEvent, operation: OperationSnapshot) -> None:
        """Add an event to the queue. An end replaces the waiting update of its run."""
        dropped: list[CallbackEvent] = []
        self._lock.run(self._add, event, operation, dropped)
        if dropped:
            self._on_dropped(len(dropped))

    def _add(self, event: CallbackEvent, operation: OperationSnapshot, dropped: list[CallbackEvent]) -> None:
        if self._thread is None and not self._is_closed:
            self._start_thread()
        if event == "updated":
            if operation.run not in self._ended_runs:
                self._updates[operation.run] = operation
        else:
            if event != "started":
                # Why: an end that an exception interrupted is submitted again.
                if operation.run in self._ended_runs:
                    return
                self._updates.pop(operation.run, None)
                self._edges.append((event, operation))
                self._ended_runs[operation.run] = None
                if len(self._ended_runs) > self._max_waiting:
                    del self._ended_runs[next(iter(self._ended_runs))]
            else:
                self._edges.append((event, operation))
            if len(self._edges) > self._max_waiting:
                self._edges.popleft()
                dropped.append(event)
        self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all events are delivered, updates without their interval.

        Return False after ``timeout`` seconds.
        """
        if self._lock.is_interrupting():
            return False
        deadline = time.monotonic() + timeout
        with self._lock.lock:
            self._delivered.clear()
            self._changed.notify_all()
            has_no_thread = self._thread is None
        # Why: delivering here is better than losing the events.
        while has_no_thread and time.monotonic() < deadline and self._deliver_next():
            pass
        return self._lock.wait_for(
            self._changed, lambda: not (self._edges or self._updates or self._is_busy), timeout
        )

    def close(self) -> None:
        """Stop delivering. Waiting events are dropped."""
        self._lock.run(self._close)

    def _close(self) -> None:
        self._is_closed = True
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            self._lock.run_deferred()
            with self._lock.lock:
                self._is_busy = False
                self._changed.notify_all()
                while not self._is_closed and (delay_s := self._compute_delay()) != 0.0:
                    self._changed.wait(delay_s)
                if self._is_closed:
                    return
                event, operation = self._pop_event()
                self._is_busy = True
            self._call(event, operation)

    def _deliver_next(self) -> bool:
        """Deliver one event on the current thread. Return False if none waits."""
        with self._lock.lock:
            if self._is_closed or not (self._edges or self._updates):
                return False
            event, operation = self._pop_event()
        self._call(event, operation)
        return True

    def _call(self, event: CallbackEvent, operation: OperationSnapshot) -> None:
        try:
            self.callback(event, operation)
        except Exception as error:
            name = getattr(self.callback, "__qualname__", type(self.callback).__qualname__)
            report_internal_error("callback", f"The callback {name} raised an exception", error=error)

    def _compute_delay(self) -> float | None:
        """Return the seconds until the next delivery, or None when no event waits."""
        if self._edges:
            return 0.0
        if not self._updates:
            return None
        now = time.monotonic()
        return max(0.0, min(self._delivered.get(run, _NEVER) + self._interval for run in self._updates) - now)

    def _pop_event(self) -> tuple[CallbackEvent, OperationSnapshot]:
        if self._edges:
            event, operation = self._edges.popleft()
            if event != "started":
                self._delivered.pop(operation.run, None)
            return event, operation
        run = min(self._updates, key=lambda run: self._delivered.get(run, _NEVER))
        self._delivered[run] = time.monotonic()
        return "updated", self._updates.pop(run)


class Callbacks:
    """All callbacks of a runtime."""

    def __init__(self, on_dropped: Callable[[int], None]) -> None:
        self._workers: tuple[CallbackWorker, ...] = ()
        self._on_dropped = on_dropped

    def __bool__(self) -> bool:
        return bool(self._workers)

    def add(self, callback: Callback, interval: float, *, max_waiting: int = MAX_WAITING) -> None:
        """Start calling ``callback``. Adding it again changes its interval.

        Raises ConfigurationError for an invalid callback or interval.
        """
        if not callable(callback):
            msg = (
                f"Invalid callback of type {type(callback).__name__}: "
                "expected a function of an event and an operation. Pass a function."
            )
            raise ConfigurationError(msg)
        if not isinstance(interval, (int, float)) or not 0.0 <= interval <= threading.TIMEOUT_MAX:
            msg = (
                f"Invalid interval {truncate(interval, 64)} of a callback: "
                "expected seconds, 0 or more. Pass a number."
            )
            raise ConfigurationError(msg)
        self.remove(callback)
        worker = CallbackWorker(callback, interval, self._on_dropped, max_waiting=max_waiting)
        self._workers = (*self._workers, worker)

    def remove(self, callback: Callback) -> None:
        """Stop calling ``callback``. An unknown callback is ignored."""
        for worker in self._workers:
            if worker.callback == callback:
                worker.close()
        self._workers = tuple(worker for worker in self._workers if worker.callback != callback)

    def submit(self, event: CallbackEvent, operation: OperationSnapshot) -> None:
        """Submit an event to every callback."""
        for worker in self._workers:
            worker.submit(event, operation)

    def flush(self, timeout: float) -> bool:
        """Wait until all callbacks have received all events.

        Return False after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        return all([worker.flush(max(0.0, deadline - time.monotonic())) for worker in self._workers])

    def close(self) -> None:
        """Remove all callbacks."""
        for worker in self._workers:
            worker.close()
        self._workers = ()
