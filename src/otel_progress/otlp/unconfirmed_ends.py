"""Ends whose export failed. They are sent again until the collector accepts them.

The end of a level is the last event about it, so no later event replaces a lost one.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from otel_progress import semconv
from otel_progress.processes import allows_daemon_threads

MAX_UNCONFIRMED_ENDS: Final = 4_096
"""Maximum number of ends that wait for the collector. Beyond it the oldest are dropped and counted.
"""


FIRST_RETRY_S: Final = 1.0
"""Time until ends are sent again after a failed export, in seconds. It doubles with each failure.
"""


MAX_RETRY_S: Final = 60.0
"""Maximum time until ends are sent again, in seconds."""


class UnconfirmedEnds:
    """Bounded queue of ends of failed exports, and the thread that sends them again.

    ``send`` queues records for export and returns False if there is no space. ``on_dropped`` is
    called with the number of dropped ends. Exports run on one thread at a time, and any thread may
    close. The retry thread runs only while ends wait. A forked child has no ends of its parent.
    """

    def __init__(
        self,
        send: Callable[[list[Any]], bool],
        *,
        max_ends: int = MAX_UNCONFIRMED_ENDS,
        on_dropped: Callable[[int], object] | None = None,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._send = send
        self._max_ends = max_ends
        self._on_dropped = on_dropped
        self._wait = wait
        self._restart()

    def _restart(self) -> None:
        self._pid = os.getpid()
        self._ends: deque[Any] = deque()
        self._retry_s = FIRST_RETRY_S
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ends) if self._pid == os.getpid() else 0

    def handle_export(self, batch: Iterable[Any], *, accepted: bool) -> None:
        """Store the ends of a failed export.

        After a successful export, send all stored ends again.
        """
        if self._pid != os.getpid():
            self._restart()
        if accepted:
            self._retry_s = FIRST_RETRY_S
            if self._ends:
                self.send_again()
            return
        ends = [record for record in batch if _get_event_name(record) == semconv.EVENT_FINISHED]
        if not ends or self._closed.is_set():
            return
        with self._lock:
            self._ends.extend(ends)
            excess = len(self._ends) - self._max_ends
            for _ in range(excess):
                self._ends.popleft()
        if excess > 0 and self._on_dropped is not None:
            self._on_dropped(excess)
        self._start_thread()

    def send_again(self) -> bool:
        """Queue all stored ends for export. Return False if none is stored."""
        if self._pid != os.getpid():
            return False
        with self._lock:
            ends = list(self._ends)
            if ends and self._send(ends):
                self._ends.clear()
        return bool(ends)

    def close(self) -> None:
        """Queue all stored ends for the last export, and stop the thread."""
        self.send_again()
        self._closed.set()

    def _start_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(
            target=self._run, name="otel-progress-resend", daemon=allows_daemon_threads()
        )
        try:
            thread.start()
        except RuntimeError:  # no thread is available; the next successful export sends the ends
            return
        self._thread = thread

    def _run(self) -> None:
        closed = self._closed
        while not self._wait(closed, self._retry_s):
            self._retry_s = min(2.0 * self._retry_s, MAX_RETRY_S)
            with self._lock:
                if not self._ends:
                    # Why under the lock: the next failure then sees that no thread is running.
                    self._thread = None
                    return
            self.send_again()


def _get_event_name(record: Any) -> str | None:
    """Return the event name of a record of the SDK, also in its older forms."""
    name = getattr(getattr(record, "log_record", record), "event_name", None)
    return name if isinstance(name, str) else None
