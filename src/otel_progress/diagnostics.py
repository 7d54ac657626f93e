"""Internal errors: counted per component, logged once, never raised to callers."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

from otel_progress.fork import fork_safe_lock, report_hook_errors
from otel_progress.interrupts import is_interrupt
from otel_progress.locking import CallerLock

if TYPE_CHECKING:
    from otel_progress.semconv import InternalErrorPlace

logger: Final = logging.getLogger("otel_progress")


internal_error_counts: Final[Counter[str]] = Counter()
"""Number of internal errors per place. See ``semconv.InternalErrorPlace``."""


_lock: Final = CallerLock(fork_safe_lock())


def report_internal_error(
    place: InternalErrorPlace, text: str, *, error: BaseException | None = None
) -> None:
    """Count an internal error and log the first one of its place, with its cause.

    The default of ``error`` is the exception that is being handled.
    """
    is_first: list[bool] = []
    _lock.run(_count, place, is_first)
    if any(is_first):
        log_warning(
            "%s (further errors of this kind are only counted)", text, error=error or sys.exc_info()[1]
        )


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


report_hook_errors(lambda error: report_internal_error("fork", "A fork hook failed.", error=error))
