"""Failures from exceptions: type, message and the end of the traceback.

Of an exception group the leaves that failed are described. All texts are bounded, and an exception
that passes many levels is formatted only once.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Final, NamedTuple, TypeAlias

from otel_progress import redaction
from otel_progress.instrument.exits import find_leaves, get_qualified_type_name, is_group
from otel_progress.interrupts import is_interrupt
from otel_progress.model import Failure
from otel_progress.text import MAX_DETAILS, normalize_id, truncate

ErrorLike: TypeAlias = "BaseException | Failure | str"
"""Why something failed."""


MAX_LISTED_FAILURES: Final = 5
"""Failures of a group that are described. Further ones are counted."""


MAX_LEAF_MESSAGE_CHARACTERS: Final = 160
"""Characters of one message in the message of a group. Longer ones are truncated."""


MAX_TRACEBACK_FRAMES: Final = 16
"""Innermost frames per exception in the details. Outer frames are left out."""


MAX_CHAIN_EXCEPTIONS: Final = 8
"""Exceptions of a chain (cause or context) in the details. Earlier ones are left out."""


RECORDED_AT: Final = "__otel_progress_recorded_at__"
"""Attribute of an exception: run and path of the level whose span recorded it."""


_CAUSE_HEADER: Final = "\nThe above exception was the direct cause of the following exception:\n\n"


_CONTEXT_HEADER: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


class _FormattedException(NamedTuple):
    """Details of the exception that a thread formatted last."""

    record: object
    """Value of ``RECORDED_AT`` of the exception, compared by identity."""
    start: tuple[int, int, int]
    """The traceback entry from which it was formatted."""
    signature: tuple[object, ...]
    """Values that change the details: message, notes, cause and context."""
    is_complete: bool
    """True when further outer frames do not change the details."""
    details: str | None


class _ThreadState(threading.local):
    formatted: _FormattedException | None = None


_thread_state: Final = _ThreadState()


def to_failure(error: object) -> Failure:
    """Return a redacted Failure from an exception, a Failure or a text.

    The failure of an exception includes the end of its traceback. The failure of a group describes
    its leaves: their type if they have a common one, else the type of the group, and their
    messages.
    """
    if isinstance(error, Failure):
        details = None if error.details is None else truncate(error.details, MAX_DETAILS)
        return _redact_failure(error.type, error.message, details)
    if isinstance(error, BaseException):
        return _describe_group(error) if is_group(error) else _describe_exception(error)
    return _redact_failure("error", "" if error is None else error, None)


def _redact_failure(kind: str, message: object, details: str | None) -> Failure:
    clean_details = None if details is None else redaction.redact_value("details", details, MAX_DETAILS)
    return Failure(
        redaction.redact_id(normalize_id(kind)),
        redaction.redact_value("error", truncate(message)),
        clean_details,
    )


def _describe_exception(error: BaseException) -> Failure:
    kind, message = get_qualified_type_name(error), truncate(error)
    return _redact_failure(kind, message, _format_details(error, message))


def _describe_group(error: BaseException) -> Failure:
    leaves = find_leaves(error)
    failures = leaves.failures or leaves.cancellations or leaves.exits
    if len(failures) == 1:
        return _describe_exception(failures[0])
    names = {get_qualified_type_name(leaf) for leaf in failures}
    is_uniform = len(names) == 1
    parts = []
    for leaf in failures[:MAX_LISTED_FAILURES]:
        message = truncate(leaf, MAX_LEAF_MESSAGE_CHARACTERS)
        name = get_qualified_type_name(leaf)
        parts.append(message or name if is_uniform else f"{name}: {message}" if message else name)
    if len(failures) > MAX_LISTED_FAILURES:
        parts.append(f"{len(failures) - MAX_LISTED_FAILURES} more")
    kind = names.pop() if is_uniform else get_qualified_type_name(error)
    return _redact_failure(kind, "; ".join(parts), _format_leaves(failures))


def _format_leaves(failures: Sequence[BaseException]) -> str | None:
    """Return the ends of the first tracebacks, with equal shares of the space."""
    listed = failures[:MAX_LISTED_FAILURES]
    share = MAX_DETAILS // len(listed) - 64
    parts = []
    for number, leaf in enumerate(listed, 1):
        text = format_traceback(leaf) or get_qualified_type_name(leaf)
        parts.append(f"--- error {number} of {len(failures)} ---\n{text[-share:]}")
    return truncate("\n".join(parts), MAX_DETAILS)


# --- tracebacks ----------------------------------------------------------------------------------


def _format_details(error: BaseException, message: str) -> str | None:
    """Return the traceback of an exception.

    It is cached for the next level that the exception leaves.
    """
    start = error.__traceback__
    record = error.__dict__.get(RECORDED_AT)
    if record is None or start is None:
        return format_traceback(error)
    notes = getattr(error, "__notes__", None)
    signature = (message, str(notes), id(error.__cause__), id(error.__context__))
    last = _thread_state.formatted
    if (
        last is not None
        and last.record is record
        and last.signature == signature
        and (
            last.start == _identify_entry(start) or (last.is_complete and _contains_entry(start, last.start))
        )
    ):
        formatted = last._replace(start=_identify_entry(start))
    else:
        is_complete = _find_last_frames(start)[1]
        formatted = _FormattedException(
            record, _identify_entry(start), signature, is_complete, format_traceback(error)
        )
    _thread_state.formatted = formatted
    return formatted.details


def _identify_entry(entry: TracebackType) -> tuple[int, int, int]:
    """Return an identity of a traceback entry that keeps no frame alive."""
    return id(entry), id(entry.tb_frame), entry.tb_lasti


def _contains_entry(start: TracebackType, identity: tuple[int, int, int]) -> bool:
    entry: TracebackType | None = start
    while entry is not None:
        if id(entry) == identity[0] and _identify_entry(entry) == identity:
            return True
        entry = entry.tb_next
    return False


def _find_last_frames(start: TracebackType) -> tuple[TracebackType, bool]:
    """Return the entry of the first of the last frames.

    Also return whether there are as many frames as the limit.
    """
    ahead: TracebackType | None = start
    for _ in range(MAX_TRACEBACK_FRAMES):
        if ahead is None:
            return start, False
        ahead = ahead.tb_next
    first = start
    while ahead is not None:
        ahead = ahead.tb_next
        first = first.tb_next  # type: ignore[assignment]
    return first, True


def format_traceback(error: BaseException) -> str | None:
    """Return the end of an exception's traceback, or None if formatting raises.

    It includes the exceptions that caused it, unless the text becomes too long.
    """
    try:
        text = ""
        here: BaseException | None = error
        for _ in range(MAX_CHAIN_EXCEPTIONS):
            if here is None or len(text) > MAX_DETAILS:
                break
            text = _format_one(here) + text
            header = _CAUSE_HEADER if here.__cause__ is not None else _CONTEXT_HEADER
            here = get_chained_exception(here)
            text = text if here is None else header + text
    except Exception as failure:  # A foreign __str__ or __repr__ may raise any exception.
        if is_interrupt(failure):
            raise
        return None
    return truncate(text[-MAX_DETAILS:], MAX_DETAILS)


def get_chained_exception(error: BaseException) -> BaseException | None:
    """Return the cause of an exception, else the context unless it is suppressed."""
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def is_compound(error: BaseException) -> bool:
    """Return whether an exception has a long chain, or is or contains a group."""
    here: BaseException | None = error
    for _ in range(MAX_CHAIN_EXCEPTIONS):
        if here is None:
            return False
        if is_group(here):
            return True
        here = get_chained_exception(here)
    return here is not None


def _format_one(error: BaseException) -> str:
    """Return the traceback of an exception without its chain and its leaves."""
    start = error.__traceback__
    if start is not None:
        start = _find_last_frames(start)[0]
    if is_group(error):
        lines = ["Traceback (most recent call last):\n", *traceback.format_tb(start)] if start else []
        return "".join([*lines, f"{get_qualified_type_name(error)}: {truncate(error)}\n"])
    # Why: ``_seen`` is the only way to leave out the chain, whose length is not bounded. With it,
    # the constructor does not set the attributes of the chain.
    formatter = traceback.TracebackException(type(error), error, start, _seen=set())
    formatter.__cause__ = formatter.__context__ = None
    formatter.exceptions = None  # type: ignore[attr-defined]
    return "".join(formatter.format(chain=False))
