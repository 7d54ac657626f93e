"""Export of captured log records over OTLP.

Each record has its severity, its logger as the scope, its trace, and the level that it belongs to.
"""

from __future__ import annotations

from typing import Final, Protocol

from otel_progress import semconv
from otel_progress.model import MetadataValue
from otel_progress.otlp.sdk_compat import INT64_LIMIT, MAX_PATH, LogEvent
from otel_progress.protocols import ChangeSet
from otel_progress.records import LogRecord
from otel_progress.text import MAX_DETAILS, MAX_NAME, normalize_id, truncate

MAX_ATTRIBUTES: Final = 32
"""Maximum number of own attributes per log record. Further attributes are dropped."""


class Emitter(Protocol):
    """Receiver of log records, for example an ``EventLog``."""

    def emit(self, event: LogEvent) -> None:
        """Queue one record."""


class OtlpLogs:
    """A Sink that emits the log records of change sets.

    The sink of the events closes the emitter, which both share.
    """

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def write(self, change_set: ChangeSet) -> None:
        """Emit the records of a change set."""
        for record in change_set.logs:
            self._emitter.emit(build_log_event(record))

    def close(self) -> None:
        """Do nothing. All records were emitted when they were written."""


def build_log_event(record: LogRecord) -> LogEvent:
    """Return a log record for the SDK, without an event name."""
    # Why own attributes first: if the number of attributes is limited, the SDK drops the oldest.
    attributes: dict[str, MetadataValue] = {
        truncate(key, MAX_NAME): value
        for key, value in list(record.attributes.items())[:MAX_ATTRIBUTES]
        if not isinstance(value, int) or -INT64_LIMIT <= value < INT64_LIMIT
    }
    attributes[semconv.OPERATION_ID] = normalize_id(record.operation_id)
    attributes[semconv.OPERATION_TYPE] = normalize_id(record.operation_type)
    attributes[semconv.RUN] = record.run
    attributes[semconv.PATH] = truncate(record.path, MAX_PATH)
    if record.details is not None:
        attributes[semconv.EXCEPTION_STACKTRACE] = truncate(record.details, MAX_DETAILS)
    return LogEvent(
        name=None,
        body=record.message,
        at=record.at,
        trace_id=record.trace_id,
        span_id=record.span_id,
        attributes=attributes,
        severity=to_severity_number(record.severity),
        severity_text=record.severity_text,
        scope=record.logger,
    )


def to_severity_number(level: int) -> int:
    """Return OpenTelemetry's severity (1 to 24) for a level of ``logging``.

    The levels 10, 20, 30, 40 and 50 become 5, 9, 13, 17 and 21. Numbers in between keep their
    order, for example 25 becomes 11. Numbers below 10 become 1 to 4 (trace).
    """
    if level < 10:
        return max(1, min(4, 1 + level * 4 // 10))
    return min(24, 1 + (level * 4) // 10)
