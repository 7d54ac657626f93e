"""Thread that watches the reader for all clients of a hub."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, cast

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.missed_ends import MissedEnds
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import Reader
from otel_progress.server.settings import WATCH_RETRY_S


class ReaderWatch:
    """Watches ``reader``, and stores the latest change per run until drained.

    The thread calls ``notify()`` when there is something to drain. ``interval`` is the time between
    two polls of the reader, ``retry_s`` the pause after an error, both in seconds.
    """

    def __init__(
        self,
        reader: Reader,
        interval: float,
        notify: Callable[[], None],
        *,
        retry_s: float = WATCH_RETRY_S,
    ) -> None:
        self._reader = reader
        self._interval = interval
        self._notify = notify
        self._retry_s = retry_s
        self._missed = MissedEnds(reader)
        self._lock = threading.Lock()
        self._pending: dict[str, OperationSnapshot] = {}
        self._error: str | None = None
        self._start_count = 0
        self._is_notified = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otel-progress-feed", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stopping.set()

    def drain(self) -> tuple[Sequence[OperationSnapshot], int, str | None]:
        """Return the changes since the last drain, watch starts, and the error.

        The earliest change is first.
        """
        with self._lock:
            pending, self._pending, self._is_notified = self._pending, {}, False
            return list(pending.values()), self._start_count, self._error

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._watch_reader()
            except JournalError as error:
                self._store((), str(error))
            except Exception as error:
                # Why: a custom reader may raise any exception.
                report_internal_error("server", "The operations could not be followed", error=error)
                message = f"The operations cannot be read ({type(error).__name__}). See the server's log."
                self._store((), message)
            self._stopping.wait(self._retry_s)

    def _watch_reader(self) -> None:
        self._missed.start()
        watch = cast(
            "Generator[Sequence[OperationSnapshot], Any, Any]",
            self._reader.watch(self._interval, levels=False),
        )
        with closing(watch):
            for number, changes in enumerate(watch):
                if self._stopping.is_set():
                    return
                self._missed.add(changes)
                if number == 0:
                    if self._start_count:
                        # Why in front: the newest change comes first.
                        changes = [*changes, *self._missed.find()]
                    self._start_count += 1
                if number == 0 or changes or self._error is not None:
                    self._store(changes, None)

    def _store(self, changes: Sequence[OperationSnapshot], error: str | None) -> None:
        with self._lock:
            if not changes and error is not None and error == self._error:
                return
            # A reader returns the newest change first.
            for operation in reversed(changes):
                self._pending.pop(operation.run, None)
                self._pending[operation.run] = operation
            self._error = error
            was_notified, self._is_notified = self._is_notified, True
        if not was_notified:
            self._notify()
