"""Reporter: the thread that sends reports to one platform.

It sends the newest report only, at most once per interval. So a slow platform costs no memory, and
no other thread waits for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from otel_progress.diagnostics import OutageLog, report_internal_error
from otel_progress.errors import ProgressError, build_thread_error
from otel_progress.locking import CallerLock
from otel_progress.platforms.report import PlatformReport
from otel_progress.semconv import SinkName, get_sink_place
from otel_progress.suppression import run_suppressed

RETRY_S: Final = 5.0
"""Time until a failed report is sent again, in seconds. It doubles with each failure."""


MAX_RETRY_S: Final = 60.0
"""Maximum time until a failed report is sent again, in seconds."""


FINAL_RETRY_S: Final = 0.5
"""Time until the final report is sent again if it failed, in seconds."""


class PlatformError(ProgressError):
    """Report that a platform did not accept. The message has no secrets."""


class Platform(Protocol):
    """Receiver of reports."""

    name: SinkName
    interval_s: float
    """Minimum time between two reports, in seconds."""
    is_always_active: bool
    """True if reports are sent before the first operation as well."""

    def send(self, report: PlatformReport) -> float | None:
        """Send a report.

        Return the seconds until the next call although nothing has changed, or None. Raises
        PlatformError or OSError. Only one thread calls it.
        """


class PlatformReporter:
    """Thread and state of one platform. No method but :meth:`wait` waits.

    ``get_report`` returns the current report. ``on_error`` is called for each failure. In a forked
    child nothing is sent: the platform belongs to the parent process.
    """

    def __init__(
        self,
        platform: Platform,
        get_report: Callable[[], PlatformReport],
        on_error: Callable[[SinkName], object],
        *,
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
    ) -> None:
        self.platform = platform
        self._get_report = get_report
        self._on_error = on_error
        self._clock = clock
        self._first_retry_s = retry_s
        self._retry_s = retry_s
        self._outages = OutageLog(get_sink_place(platform.name))
        self._pid = os.getpid()
        self._lock = CallerLock()
        self._changed = threading.Condition(self._lock.lock)
        self._thread: threading.Thread | None = None
        self._is_due = False
        """True if something has changed since the last report."""
        self._is_urgent = False
        """True if the next report does not wait for the interval."""
        self._is_closing = False
        self._is_sending = False
        self._attempts = 0
        self._earliest_at = float("-inf")
        self._repeat_at = float("inf")

    def notify(self) -> None:
        """Send a report soon."""
        if self._pid == os.getpid():
            self._lock.run(self._notify_locked)

    def _notify_locked(self) -> None:
        if not self._is_closing:
            self._is_due = True
            self._start_thread_locked()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Send a waiting report at once. Return False after the timeout."""
        if self._pid != os.getpid():
            return True
        # Why: a signal handler that flushes must not wait for its own thread.
        if self._lock.is_interrupting():
            return False
        with self._lock.lock:
            if self._thread is None or not (self._is_due or self._is_sending):
                return True
            attempts = self._attempts
            self._is_urgent = True
            self._changed.notify_all()
        return self._lock.wait_for(
            self._changed,
            lambda: not self._is_sending and (not self._is_due or self._attempts > attempts),
            timeout,
        )

    def close(self) -> None:
        """Send the final report without a wait, if a report was sent or waits."""
        if self._pid == os.getpid():
            self._lock.run(self._close_locked)

    def _close_locked(self) -> None:
        self._is_closing = True
        self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait for the final report. Return False after the timeout."""
        thread = self._thread
        if thread is None or self._pid != os.getpid():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _start_thread_locked(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(
            target=run_suppressed(self._run), name=f"otel-progress-{self.platform.name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            text = f"The thread of {self.platform.name} could not be started"
            report_internal_error(get_sink_place(self.platform.name), text, error=build_thread_error(error))
        else:
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._lock.lock:
                while not self._can_send_locked():
                    self._changed.wait(self._compute_wait_locked())
                self._is_sending, self._is_due, self._is_urgent = True, False, False
                is_last = self._is_closing
            is_sent = self._send()
            with self._lock.lock:
                self._is_sending = False
                self._attempts += 1
                if not is_sent:
                    self._is_due = True
                self._changed.notify_all()
            if is_last:
                if not is_sent:
                    # Why: a short failure of the network must not hide the end of the work.
                    time.sleep(FINAL_RETRY_S)
                    self._send()
                return

    def _can_send_locked(self) -> bool:
        now = self._clock()
        return (
            self._is_closing
            or now >= self._repeat_at
            or (self._is_due and (self._is_urgent or now >= self._earliest_at))
        )

    def _compute_wait_locked(self) -> float | None:
        """Return the seconds until the next report may be due, or None."""
        at = min(self._repeat_at, self._earliest_at if self._is_due else float("inf"))
        return None if at == float("inf") else max(0.0, at - self._clock())

    def _send(self) -> bool:
        name = self.platform.name
        try:
            repeat_s = self.platform.send(self._get_report())
        except Exception as error:
            self._on_error(name)
            self._outages.report_error(
                f"The report to {name} could not be sent, and the work continues",
                error=error,
            )
            self._earliest_at = self._clock() + self._retry_s
            self._repeat_at = float("inf")
            self._retry_s = min(MAX_RETRY_S, 2 * self._retry_s)
            return False
        self._outages.report_success()
        now = self._clock()
        self._retry_s = self._first_retry_s
        self._earliest_at = now + self.platform.interval_s
        self._repeat_at = float("inf") if repeat_s is None else now + repeat_s
        return True
