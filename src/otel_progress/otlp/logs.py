"""Captured log records over OTLP: each with its severity, its logger as the scope, its trace, and the level it belongs to."""

from __future__ import annotations

from typing import Final, Protocol

from otel_progress import semconv
from otel_progress.model import MetadataValue
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import ChangeSet
from otel_progress.records import LogRecord
from otel_progress.text import MAX_DETAILS, MAX_NAME, normalize_id, truncate

MAX_ATTRIBUTES: Final = 32
"""Attributes of its own that a log record carries; those beyond are left out."""


_MAX_PATH: Final = 4096


_INT64: Final = 1 << 63


class Emitter(Protocol):
    """Where records go; ``EventLog`` of the logs shim is one."""

    def emit(self, event: LogEvent) -> None:
        """Queue one record."""


class OtlpLogs:
    """A Sink that emits the log records of batches. The emitter is shared with the events, whose sink closes it."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def write(self, batch: ChangeSet) -> None:
        """Emit the records of a batch."""
        for record in batch.logs:
            self._emitter.emit(log_event(record))

    def close(self) -> None:
        """Do nothing: everything was emitted when it was written."""


def log_event(record: LogRecord) -> LogEvent:
    """Return what a log record is for the logs SDK: a record without an event name."""
    # Its own attributes come first: where a limit on attributes is set, the SDK lets the oldest go.
    attributes: dict[str, MetadataValue] = {
        truncate(key, MAX_NAME): value
        for key, value in list(record.attributes.items())[:MAX_ATTRIBUTES]
        if not isinstance(value, int) or -_INT64 <= value < _INT64
    }
    attributes[semconv.OPERATION_ID] = normalize_id(record.operation_id)
    attributes[semconv.OPERATION_TYPE] = normalize_id(record.operation_type)
    attributes[semconv.PATH] = truncate(record.path, _MAX_PATH)
    if record.details is not None:
        attributes[semconv.EXCEPTION_STACKTRACE] = truncate(record.details, MAX_DETAILS)
    return LogEvent(
        name=None,
        body=record.message,
        at=record.at,
        trace_id=record.trace_id,
        span_id=record.span_id,
        attributes=attributes,
        severity=severity_number(record.severity),
        severity_text=record.severity_text,
        scope=record.logger,
    )


def severity_number(level: int) -> int:
    """Return OpenTelemetry's severity (1 to 24) of a level of ``logging``: 10 debug is 5, 20 is 9, 30 is 13, 40 is 17, 50 is 21.

    Numbers in between keep their order: 25 is 11. Those below debug are 1 to 4, trace.
    """
    if level < 10:
        return max(1, min(4, 1 + level * 4 // 10))
    return min(24, 1 + (level * 4) // 10)
