"""Internal errors: counted per component, logged once, never raised to callers."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otel_progress.errors import ProgressError
from otel_progress.fork import fork_safe_lock, report_hook_errors
from otel_progress.interrupts import is_interrupt
from otel_progress.locking import CallerLock

if TYPE_CHECKING:
    from otel_progress.semconv import InternalErrorPlace

logger: Final = logging.getLogger("otel_progress")


internal_error_counts: Final[Counter[str]] = Counter()
"""Number of internal errors per place. See ``semconv.InternalErrorPlace``."""


MAX_LOGGED_CAUSES: Final = 100
"""Maximum number of remembered causes. Beyond it a cause is logged once per place."""


_logged_causes: Final[set[str]] = set()
"""Messages of errors that were logged, so that two places log one cause only once."""


_ONLY_COUNTED: Final = "further errors of this kind are only counted"


_lock: Final = CallerLock(fork_safe_lock())


def report_internal_error(
    place: InternalErrorPlace, text: str, *, error: BaseException | None = None
) -> None:
    """Count an internal error and log the first one of its place, with its cause.

    The default of ``error`` is the exception that is being handled. The cause is a traceback, or
    for a ProgressError its message in a second line.
    """
    is_first: list[bool] = []
    _lock.run(_count, place, is_first)
    cause = error or sys.exc_info()[1]
    if any(is_first) and _is_new_cause(cause):
        _log_failure(text, _ONLY_COUNTED, cause)


def _log_failure(text: str, note: str, cause: BaseException | None) -> None:
    if isinstance(cause, ProgressError):
        # Why no traceback: the message contains the cause and the fix.
        log_warning("%s (%s):\n%s", text, note, cause)
    else:
        log_warning("%s (%s)", text, note, error=cause)


def _is_new_cause(cause: BaseException | None) -> bool:
    """Return False for a ProgressError whose message was logged, for any place."""
    if not isinstance(cause, ProgressError):
        return True
    text = str(cause)
    # Why without the lock: each call is one C function, and a cause may be logged twice.
    is_new = text not in _logged_causes
    if len(_logged_causes) < MAX_LOGGED_CAUSES:
        _logged_causes.add(text)
    return is_new


def report_unavailable(place: InternalErrorPlace, text: str, error: ProgressError) -> None:
    """Count a part that ``configure`` leaves out, and log it.

    The log record has two lines: ``text`` and the reason.
    """
    _lock.run(_count, place, [])
    log_warning("%s:\n%s", text, error)


def _count(place: str, is_first: list[bool]) -> None:
    internal_error_counts[place] += 1
    is_first.append(internal_error_counts[place] == 1)


def log_warning(text: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log a warning. Exceptions of log handlers and filters are ignored."""
    try:
        logger.warning(text, *arguments, exc_info=error)
    except Exception as failure:
        if is_interrupt(failure):
            raise


OUTAGE_LOG_INTERVAL_S: Final = 60.0
"""Minimum time between two logged outages of a component, in seconds. Others are counted."""


class OutageLog:
    """Logs each outage of one component once.

    At most one outage per ``OUTAGE_LOG_INTERVAL_S`` is logged. An outage that starts earlier is
    logged when that time is over, if it still lasts. Only one thread may use it.
    """

    def __init__(self, place: InternalErrorPlace, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._clock = clock
        self._logged_at: float | None = None
        self._is_failing = False
        self._is_logged = False
        self._unlogged = 0

    def report_error(self, text: str, *, error: BaseException | None) -> None:
        """Count an error. Log it if it is the first one of its outage."""
        _lock.run(_count, self._place, [])
        self._is_failing = True
        now = self._clock()
        is_early = self._logged_at is not None and now - self._logged_at < OUTAGE_LOG_INTERVAL_S
        if self._is_logged or is_early:
            return
        is_first = self._logged_at is None
        self._is_logged, self._logged_at = True, now
        unlogged, self._unlogged = self._unlogged, 0
        # Why only the first: a later outage is logged although its cause is known.
        if is_first and not _is_new_cause(error):
            return
        earlier = f", {unlogged} shorter outages before it were not logged" if unlogged else ""
        _log_failure(text, f"{_ONLY_COUNTED}{earlier}", error)

    def report_success(self) -> None:
        """End the outage."""
        if self._is_failing and not self._is_logged:
            self._unlogged += 1
        self._is_failing = self._is_logged = False


report_hook_errors(lambda error: report_internal_error("fork", "A fork hook failed.", error=error))
