"""The one watcher of a hub: a thread that follows the reader, however many clients there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, cast

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import Reader

if TYPE_CHECKING:
    from collections.abc import Generator


RETRY_S: Final = 0.5
"""Pause before a reader that failed is followed again, in seconds."""


class ReaderWatch:
    """Follows ``reader`` until stopped. Everything seen waits, newest only, until it is drained.

    ``notify()`` is called from the thread when there is something to drain. ``interval`` is between two looks, in seconds.
    """

    def __init__(self, reader: Reader, interval: float, notify: Callable[[], None]) -> None:
        self._reader = reader
        self._interval = interval
        self._notify = notify
        self._lock = threading.Lock()
        self._found: dict[str, OperationSnapshot] = {}
        self._trouble: str | None = None
        self._begun = 0
        self._told = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otel-progress-feed", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End soon; does not wait."""
        self._stopping.set()

    def drain(self) -> tuple[Sequence[OperationSnapshot], int, str | None]:
        """Return what changed since the last time, the earliest change first, how often a watch began, and what is wrong now."""
        with self._lock:
            found, self._found, self._told = self._found, {}, False
            return list(found.values()), self._begun, self._trouble

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except JournalError as error:
                self._put((), str(error))
            except Exception as error:  # whatever a reader of somebody else's may raise
                report_internal_error("server", "The operations could not be followed", error=error)
                self._put(
                    (), f"The operations cannot be read ({type(error).__name__}). See the server's log."
                )
            self._stopping.wait(RETRY_S)

    def _follow(self) -> None:
        watch = cast(
            "Generator[Sequence[OperationSnapshot], Any, Any]",
            self._reader.watch(self._interval, levels=False),
        )
        with closing(watch):
            for number, found in enumerate(watch):
                if self._stopping.is_set():
                    return
                if number == 0:
                    self._begun += 1
                if number == 0 or found or self._trouble is not None:
                    self._put(found, None)

    def _put(self, found: Sequence[OperationSnapshot], wrong: str | None) -> None:
        with self._lock:
            if not found and wrong is not None and wrong == self._trouble:
                return
            for operation in reversed(found):  # a reader gives the newest first
                self._found.pop(operation.run, None)
                self._found[operation.run] = operation
            self._trouble = wrong
            told, self._told = self._told, True
        if not told:
            self._notify()
