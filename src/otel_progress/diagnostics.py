"""What went wrong inside of telemetry: counted by place, logged once a place, never raised to the work."""

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
"""How often something went wrong, by place (tracer, span, sink name, callback, …)."""


_lock: Final = fork_safe_lock()


def report_internal_error(
    place: InternalErrorPlace, text: str, *, error: BaseException | None = None
) -> None:
    """Count a failure at ``place`` and log the first one there, with its cause."""
    with _lock:
        internal_error_counts[place] += 1
        first = internal_error_counts[place] == 1
    if first:
        log_warning("%s (further failures there are only counted)", text, error=error or sys.exc_info()[1])


def log_warning(text: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log a warning; a handler or filter of the application that raises is not worth an exception in the work."""
    with suppress(Exception):
        logger.warning(text, *arguments, exc_info=error)


report_hook_errors(
    lambda error: report_internal_error("fork", "progress could not be prepared for a fork", error=error)
)
