"""Internal errors: counted per component, logged once, never raised to callers."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from otel_progress.fork import fork_safe_lock, report_hook_errors

if TYPE_CHECKING:
    from otel_progress.semconv import InternalErrorPlace

logger: Final = logging.getLogger("otel_progress")


internal_error_counts: Final[Counter[str]] = Counter()
"""Number of internal errors per place. See ``semconv.InternalErrorPlace``."""


_lock: Final = fork_safe_lock()


def report_internal_error(
    place: InternalErrorPlace, text: str, *, error: BaseException | None = None
) -> None:
    """Count an internal error and log the first one of its place, with its cause.

    The default of ``error`` is the exception that is being handled.
    """
    with _lock:
        internal_error_counts[place] += 1
        first = internal_error_counts[place] == 1
    if first:
        log_warning(
            "%s (further errors of this kind are only counted)", text, error=error or sys.exc_info()[1]
        )


def log_warning(text: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log a warning. Exceptions of log handlers and filters are ignored."""
    with suppress(Exception):
        logger.warning(text, *arguments, exc_info=error)


report_hook_errors(lambda error: report_internal_error("fork", "A fork hook failed.", error=error))
