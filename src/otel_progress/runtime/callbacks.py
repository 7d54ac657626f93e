"""Callbacks: each has a thread and a bounded mailbox of its own, so one that raises or hangs harms nobody.

Starts and ends are delivered at once and in order; updates are coalesced, at most one an operation and interval, the newest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ConfigurationError
from otel_progress.operations import OperationSnapshot
from otel_progress.text import truncate

CallbackEvent: TypeAlias = Literal["started", "updated", "completed", "failed", "cancelled", "skipped"]
"""What a callback is told: how an operation began, went on, or ended."""


Callback: TypeAlias = Callable[[CallbackEvent, OperationSnapshot], object]
"""Called with the event and the operation as it was then, levels included."""


MAX_WAITING: Final = 1_000
"""Starts and ends that may wait for a callback that is slow; beyond, the oldest are let go and counted."""


_NEVER: Final = float("-inf")
"""When a run was last told of that never was. Not 0: the monotonic clock may have begun less than an interval ago, with the machine."""


class CallbackWorker:
    """Delivers to one callback from one thread."""

    def __init__(self, callback: Callback, interval: float, on_dropped: Callable[[int], None]) -> None:
        self.callback = callback
        self._interval = interval
        self._on_dropped = on_dropped
        self._edges: deque[tuple[CallbackEvent, OperationSnapshot]] = deque()
        self._updates: dict[str, OperationSnapshot] = {}
        self._delivered: dict[str, float] = {}
        self._over: dict[str, None] = {}
        """Runs whose end was told last: an update that was on its way at that moment comes too late."""
        self._changed = threading.Condition(threading.Lock())
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="otel-progress-callback", daemon=True)
        self._thread.start()

    def submit(self, event: CallbackEvent, operation: OperationSnapshot) -> None:
        """Leave an event; an end takes the update that waits with it."""
        dropped = 0
        with self._changed:
            if event == "updated":
                if operation.run not in self._over:
                    self._updates[operation.run] = operation
            else:
                if event != "started":
                    self._updates.pop(operation.run, None)
                    self._over[operation.run] = None
                    if len(self._over) > MAX_WAITING:
                        del self._over[next(iter(self._over))]
                self._edges.append((event, operation))
                if len(self._edges) > MAX_WAITING:
                    self._edges.popleft()
                    dropped = 1
            self._changed.notify_all()
        if dropped:
            self._on_dropped(dropped)

    def flush(self, timeout: float) -> bool:
        """Wait until everything has been delivered, pending updates without their interval."""
        with self._changed:
            self._delivered.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self._edges or self._updates or self._busy), timeout)

    def close(self) -> None:
        """Deliver nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._closed and (due := self._due()) != 0.0:
                    self._changed.wait(due)
                if self._closed:
                    return
                event, operation = self._take()
                self._busy = True
            try:
                self.callback(event, operation)
            except Exception as error:
                name = getattr(self.callback, "__qualname__", type(self.callback).__qualname__)
                report_internal_error("callback", f"the callback {name} raised", error=error)

    def _due(self) -> float | None:
        """Return the seconds until something may be delivered, None while there is nothing."""
        if self._edges:
            return 0.0
        if not self._updates:
            return None
        now = time.monotonic()
        return max(0.0, min(self._delivered.get(run, _NEVER) + self._interval for run in self._updates) - now)

    def _take(self) -> tuple[CallbackEvent, OperationSnapshot]:
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
        self._boxes: tuple[CallbackWorker, ...] = ()
        self._on_dropped = on_dropped

    def __bool__(self) -> bool:
        return bool(self._boxes)

    def add(self, callback: Callback, interval: float) -> None:
        """Call ``callback`` from now on; adding it again changes its interval. Raises ConfigurationError for what cannot be used."""
        if not callable(callback):
            msg = f"a callback has to be callable with an event and an operation, which a {type(callback).__name__} is not"
            raise ConfigurationError(msg)
        if not isinstance(interval, (int, float)) or not 0.0 <= interval <= threading.TIMEOUT_MAX:
            msg = f"the interval of a callback is a number of seconds from 0, not {truncate(interval, 64)}"
            raise ConfigurationError(msg)
        self.remove(callback)
        self._boxes = (*self._boxes, CallbackWorker(callback, interval, self._on_dropped))

    def remove(self, callback: Callback) -> None:
        """Do not call ``callback`` again; nothing happens when it is not there."""
        for box in self._boxes:
            if box.callback == callback:
                box.close()
        self._boxes = tuple(box for box in self._boxes if box.callback != callback)

    def submit(self, event: CallbackEvent, operation: OperationSnapshot) -> None:
        """Tell every callback."""
        for box in self._boxes:
            box.submit(event, operation)

    def flush(self, timeout: float) -> bool:
        """Wait until every callback has been told everything."""
        deadline = time.monotonic() + timeout
        return all([box.flush(max(0.0, deadline - time.monotonic())) for box in self._boxes])

    def close(self) -> None:
        """End all deliveries."""
        for box in self._boxes:
            box.close()
        self._boxes = ()
