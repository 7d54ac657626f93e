"""Export of ended operations without the delay of the SDK's batch processors."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.locking import CallerLock
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.semconv import InternalErrorPlace

MIN_INTERVAL_S: Final = 1.0
"""Time between two exports that no caller waits for, in seconds. Ends in between wait for the next
one.
"""


class ExportTrigger:
    """Calls ``export`` on a thread of its own, soon after each request.

    ``export`` sends what waits in a batch processor, and may take as long as the exporter needs.
    ``is_failing`` returns True while exports fail. ``name`` is the name of the thread.
    """

    def __init__(
        self,
        name: str,
        place: InternalErrorPlace,
        export: Callable[[], object],
        *,
        is_failing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._name = name
        self._place: InternalErrorPlace = place
        self._export = export
        self._is_failing = is_failing
        self.restart()

    def restart(self) -> None:
        """Discard the thread and all requests, as a forked child does."""
        self._start_lock = CallerLock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._numbers = itertools.count(1)
        self._started = 0
        self._exported = 0
        self._exported_at = float("-inf")
        self._is_due = False
        self._is_awaited = False
        self._is_closed = False

    def request(self, *, is_awaited: bool = False) -> int:
        """Request an export. Return a number for :meth:`is_done`.

        With ``is_awaited`` it is exported at once.
        """
        number = next(self._numbers)
        self._is_awaited |= is_awaited
        is_due, self._is_due = self._is_due, True
        if not is_due or is_awaited:
            if self._thread is None:
                self._start_lock.run(self._start_thread)
            self._wake.put(None)
        return number

    def is_done(self, number: int) -> bool:
        """Return True if an export after ``request`` has ended.

        Also if waiting for it is useless.
        """
        return self._exported > number or self._thread is None or self._is_closed or self.is_failing

    @property
    def is_failing(self) -> bool:
        """True while exports fail."""
        return self._is_failing()

    @property
    def is_idle(self) -> bool:
        """True if no request waits and no export runs."""
        return not self._is_due and self._exported >= self._started

    def close(self) -> None:
        """End the thread after the current export."""
        self._is_closed = True
        self._wake.put(None)

    def _start_thread(self) -> None:
        if self._thread is None and not self._is_closed:
            self._thread = start_daemon_thread(
                self._run, self._name, self._place, "The thread that exports ends could not be started"
            )

    def _run(self) -> None:
        while not self._is_closed:
            delay_s = self._exported_at + MIN_INTERVAL_S - time.monotonic()
            if not self._is_due:
                self._wake.get()
            elif delay_s > 0.0 and not self._is_awaited:
                with suppress(Empty):
                    self._wake.get(timeout=delay_s)
            else:
                self._export_once()

    def _export_once(self) -> None:
        # Why this order: a request that follows makes another export due.
        self._started = next(self._numbers)
        self._is_due = self._is_awaited = False
        number = next(self._numbers)
        try:
            self._export()
        except Exception as error:
            report_internal_error(self._place, "Ended operations could not be exported", error=error)
        self._exported_at = time.monotonic()
        self._exported = number
