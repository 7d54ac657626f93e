"""Internal errors: counted per component, logged once, never raised to callers."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from otel_progress.errors import ProgressError
from otel_progress.fork import fork_safe_lock, report_hook_errors

if TYPE_CHECKING:
    from otel_progress.semconv import InternalErrorPlace

logger: Final = logging.getLogger("otel_progress")


internal_error_counts: Final[Counter[str]] = Counter()
"""Number of internal errors per place. See ``semconv.InternalErrorPlace``."""


MAX_LOGGED_CAUSES: Final = 100
"""Maximum number of remembered causes. Beyond it a cause is logged once per place."""


_logged_causes: Final[set[str]] = set()
"""Messages of errors that were logged, so that two places log one cause only once."""


_lock: Final = fork_safe_lock()


def report_internal_error(
    place: InternalErrorPlace, text: str, *, error: BaseException | None = None
) -> None:
    """Count an internal error and log the first one of its place, with its cause.

    The default of ``error`` is the exception that is being handled. The cause is a traceback, or
    for a ProgressError its message in a second line.
    """
    with _lock:
        internal_error_counts[place] += 1
        first = internal_error_counts[place] == 1
    cause = error or sys.exc_info()[1]
    if first and isinstance(cause, ProgressError):
        # Why no traceback: the message contains the cause and the fix.
        if _is_new_cause(str(cause)):
            log_warning("%s (further errors of this kind are only counted):\n%s", text, cause)
    elif first:
        log_warning("%s (further errors of this kind are only counted)", text, error=cause)


def _is_new_cause(text: str) -> bool:
    with _lock:
        is_new = text not in _logged_causes
        if len(_logged_causes) < MAX_LOGGED_CAUSES:
            _logged_causes.add(text)
    return is_new


def report_unavailable(place: InternalErrorPlace, text: str, error: ProgressError) -> None:
    """Count a part that ``configure`` leaves out, and log it.

    The log record has two lines: ``text`` and the reason.
    """
    with _lock:
        internal_error_counts[place] += 1
    log_warning("%s:\n%s", text, error)


def log_warning(text: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log a warning. Exceptions of log handlers and filters are ignored."""
    with suppress(Exception):
        logger.warning(text, *arguments, exc_info=error)


report_hook_errors(lambda error: report_internal_error("fork", "A fork hook failed.", error=error))
