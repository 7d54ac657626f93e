"""Progress as records: written to ``logging``, or as JSON lines.

A record is written at each change of status of an operation, for each failed level, and for all
running operations at an interval.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final, Protocol

from otel_progress import semconv
from otel_progress.codec import finite
from otel_progress.console.plain import (
    INTERVAL_S,
    MAX_OPERATIONS,
    find_finished_roots,
    format_operation,
    load_finished_operation,
    wrap_root,
)
from otel_progress.console.rate_limit import RateLimiter
from otel_progress.console.rows import clean_text, format_failure, format_title
from otel_progress.formats import format_moment
from otel_progress.model import LevelSnapshot, Number, Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.protocols import ChangeSet, Reader

SCHEMA_VERSION: Final = 1
"""Version of the JSON documents. It increases when a field changes its meaning or is removed."""


LOGGER_NAME: Final = "otel_progress.progress"
"""Name of the logger of ``console="log"``."""


_MAX_RECORDED_MESSAGE: Final = 1000
"""Longest message or error of a record, in characters. Longer ones are cut."""


Document = dict[str, Any]
"""Record as a JSON object."""


class RecordWriter(Protocol):
    """Destination of records."""

    def write_record(self, severity: int, text: str, document: Document) -> None:
        """Write one record, which has a severity of ``logging``, a text and values."""

    def close(self) -> None:
        """Release the destination."""


class RecordConsole:
    """Sink that writes progress as records to ``writer``.

    Records of starts, changes, ends and failed levels beyond the rate limit are only counted.
    ``interval`` is in seconds, ``clock`` is monotonic. It is used by one thread at a time.
    """

    def __init__(
        self,
        reader: Reader,
        writer: RecordWriter,
        *,
        interval: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._interval = interval
        self._clock = clock
        self._rate_limiter = RateLimiter(clock)
        self._statuses: dict[str, Status] = {}
        self._next_status_at: float | None = None
        self._is_failed = False

    def write(self, change_set: ChangeSet) -> None:
        """Write the changes of one tick, and all running operations once per interval.

        Raises OSError once if the destination is closed. After that, nothing is written.
        """
        if self._is_failed:
            return
        try:
            self._write_changes(change_set)
        except (OSError, ValueError):
            self._is_failed = True
            self._writer.close()
            raise

    def close(self) -> None:
        """Write the number of suppressed records and release the destination."""
        try:
            if not self._is_failed and self._rate_limiter.suppressed:
                self._write_suppressed_count(time.time())
        except (OSError, ValueError):
            self._is_failed = True
        self._writer.close()

    def _write_changes(self, change_set: ChangeSet) -> None:
        for level in change_set.snapshots:
            if level.info.path and level.status is Status.FAILED and self._rate_limiter.allow():
                self._write_failed_level(level, change_set.at)
        for root in change_set.snapshots:
            if root.info.path or root.status.finished:
                continue
            known = self._statuses.get(root.info.run)
            if known is not root.status:
                self._statuses[root.info.run] = root.status
                event = "started" if known is None else "changed"
                self._write_operation(event, wrap_root(root, change_set), is_limited=True)
        for root in find_finished_roots(change_set):
            self._statuses.pop(root.info.run, None)
            operation = load_finished_operation(self._reader, change_set, root, levels=False)
            self._write_operation("ended", operation, is_limited=True)
        self._write_status()
        if self._rate_limiter.suppressed and (not self._statuses or self._rate_limiter.allow()):
            self._write_suppressed_count(change_set.at)

    def _write_status(self) -> None:
        if not self._statuses:
            self._next_status_at = None
            return
        now = self._clock()
        if self._next_status_at is None:
            self._next_status_at = now + self._interval
        if now < self._next_status_at:
            return
        self._next_status_at = now + self._interval
        operations = self._reader.active(levels=False)
        for operation in operations[:MAX_OPERATIONS]:
            self._write_operation("progress", operation)
        self._rate_limiter.suppressed += max(0, len(operations) - MAX_OPERATIONS)

    def _write_operation(self, event: str, operation: OperationSnapshot, *, is_limited: bool = False) -> None:
        if is_limited and not self._rate_limiter.allow():
            return
        severity = _find_severity(operation)
        # Why cut: the line of a log has its own time.
        text = format_operation(operation).partition(" ")[2]
        document = _build_document(
            event, severity, operation.root, operation.read_at, operation.elapsed_seconds
        )
        document["condition"] = operation.condition.value
        eta = operation.eta
        remaining = None if eta is None else _clean_number(eta.remaining_s)
        document["remaining_s"] = remaining
        document["eta"] = None if remaining is None else _format_time(operation.read_at + float(remaining))
        self._writer.write_record(severity, text, document)

    def _write_failed_level(self, level: LevelSnapshot, at: float) -> None:
        parts = (clean_text(level.info.operation_id), format_title(level), "failed", format_failure(level))
        elapsed = level.duration_s or 0.0
        document = _build_document("level_failed", logging.ERROR, level, at, elapsed)
        document.update(condition=Condition.OK.value, remaining_s=None, eta=None)
        self._writer.write_record(logging.ERROR, " ".join(part for part in parts if part), document)

    def _write_suppressed_count(self, at: float) -> None:
        count = self._rate_limiter.take_suppressed()
        document = {
            "version": SCHEMA_VERSION,
            "time": _format_time(at),
            "event": "suppressed",
            "severity": "INFO",
            "count": count,
        }
        self._writer.write_record(logging.INFO, f"{count} more changes not shown", document)


class LogWriter:
    """Writes records to a logger. Handlers of the application receive them."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(LOGGER_NAME)

    def write_record(self, severity: int, text: str, document: Document) -> None:
        """Log a record with the values as attributes, named as in spans."""
        if self._logger.isEnabledFor(severity):
            self._logger.log(severity, "%s", text, extra=_select_attributes(document))

    def close(self) -> None:
        """Do nothing: the handlers belong to the application."""


_ATTRIBUTE_NAMES: Final[Mapping[str, str]] = {
    "operation_id": semconv.OPERATION_ID,
    "operation_type": semconv.OPERATION_TYPE,
    "run": semconv.RUN,
    "path": semconv.PATH,
    "status": semconv.STATUS,
    "current": semconv.CURRENT,
    "total": semconv.TOTAL,
    "unit": semconv.UNIT,
    "ratio": semconv.RATIO,
    "failed": semconv.FAILED,
}
"""Attributes of log records by the field of the document."""


def _select_attributes(document: Document) -> dict[str, Any]:
    """Return the attributes of a log record. Unknown values are left out."""
    found = ((name, document.get(field)) for field, name in _ATTRIBUTE_NAMES.items())
    return {name: value for name, value in found if value is not None}


def _build_document(event: str, severity: int, level: LevelSnapshot, at: float, elapsed: float) -> Document:
    info, error = level.info, level.error
    return {
        "version": SCHEMA_VERSION,
        "time": _format_time(at),
        "event": event,
        "severity": logging.getLevelName(severity),
        "operation_id": info.operation_id,
        "operation_type": info.operation_type,
        "run": info.run,
        "batch": info.batch,
        "trace_id": info.trace_id,
        "path": info.path,
        "name": info.name,
        "status": level.status.value,
        "current": _clean_number(level.current),
        "total": _clean_number(level.total),
        "unit": info.unit,
        "ratio": _clean_number(level.ratio),
        "failed": level.failed,
        "elapsed_s": round(elapsed, 3),
        "message": None if level.message is None else level.message[:_MAX_RECORDED_MESSAGE],
        "error": None
        if error is None
        else {"type": error.type, "message": error.message[:_MAX_RECORDED_MESSAGE]},
    }


def _find_severity(operation: OperationSnapshot) -> int:
    """Return the severity of a state: a failure is an error, other trouble a warning."""
    if operation.status is Status.FAILED:
        return logging.ERROR
    is_normal = operation.condition in (Condition.OK, Condition.PAUSED)
    return logging.INFO if is_normal and operation.status is not Status.CANCELLED else logging.WARNING


def _clean_number(value: Number | None) -> Number | None:
    """Return a number that JSON permits, None for others."""
    return value if isinstance(value, int) else finite(value)


def _format_time(timestamp: float) -> str:
    """Return a time as RFC 3339 in UTC with milliseconds."""
    try:
        time_ = datetime.fromtimestamp(timestamp, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return format_moment(timestamp)
    return time_.isoformat(timespec="milliseconds").replace("+00:00", "Z")
