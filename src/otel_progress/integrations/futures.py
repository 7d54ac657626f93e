"""Progress of futures of ``concurrent.futures`` that exist already."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, Future
from functools import partial
from typing import Any, Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer, current_level
from otel_progress.model import Outcome

TYPE: Final = "futures"
"""Type of the levels and operations."""


NAME: Final = "futures.name"
"""Metadata key of the name of the futures. It groups the history."""


_tracer: Final = ProgressTracer("otel_progress.integrations.futures")


def follow_futures(
    futures: Iterable[Future[Any]], name: str = "futures", *, level: Level | None = None
) -> Level:
    """Count futures when they are done, and return the level that counts them.

    The call does not wait. The level is a child of ``level``, by default of the current level.
    Without one, it is an operation of the type ``futures``. It ends when the last future is done.
    Failed futures are failed items, and cancelled ones are skipped items. The level is cancelled
    if a future was cancelled. It fails if all futures failed, or if their executor is broken.

    Futures of any executor can be mixed, and those that are done count at once. Raises TypeError
    for an element that is not a ``concurrent.futures.Future``.
    """
    found = list(dict.fromkeys(futures))
    for future in found:
        if not isinstance(future, Future):
            msg = f"Invalid future {future!r}: expected a concurrent.futures.Future."
            raise TypeError(f"{msg} For asyncio, iterate over progress.track(asyncio.as_completed(tasks)).")
    started = _start_level(name, len(found), current_level() if level is None else level)
    if started.recording:
        _FutureCounter(started, found).start()
    return started


def _start_level(name: str, total: int, parent: Level) -> Level:
    metadata: dict[str, Any] = {NAME: name}
    if parent.recording:
        return parent.level(TYPE, name=name, total=total, **metadata).start()
    return _tracer.operation(TYPE, name, total=total, eta_key=[NAME], **metadata).start()


class _FutureCounter:
    """Counts futures on a level, in the threads that complete them."""

    def __init__(self, level: Level, futures: list[Future[Any]]) -> None:
        self._level = level
        self._futures = futures
        self._remaining = len(futures)
        self._failed = self._cancelled = 0
        self._error: BaseException | None = None
        # Why reentrant: a signal handler may cancel a future in the thread that counts another one.
        self._lock = threading.RLock()

    def start(self) -> None:
        """Add the callbacks. Without futures, end the level."""
        futures, self._futures = self._futures, []
        if not futures:
            self._level.complete()
        for number, future in enumerate(futures, 1):
            future.add_done_callback(partial(self._count, number))

    def _count(self, number: int, future: Future[Any]) -> None:
        try:
            is_cancelled = future.cancelled()
            error = None if is_cancelled else future.exception()
            if is_cancelled:
                self._level.item(f"future {number}", outcome=Outcome.SKIPPED)
            elif error is not None:
                self._level.item(f"future {number}", outcome=Outcome.FAILED, error=error)
            else:
                self._level.increment()
            with self._lock:
                self._cancelled += is_cancelled
                self._failed += error is not None
                if self._error is None or isinstance(error, BrokenExecutor):
                    self._error = error
                self._remaining -= 1
                is_last = self._remaining == 0
            if is_last:
                self._end()
        except Exception:
            report_internal_error("integration", "A future could not be counted.")

    def _end(self) -> None:
        error, self._error = self._error, None
        counted = self._level.snapshot().current
        if error is not None and (isinstance(error, BrokenExecutor) or self._failed == counted):
            self._level.fail(error)
        elif self._cancelled:
            self._level.cancel("A future was cancelled.")
        else:
            self._level.complete()
