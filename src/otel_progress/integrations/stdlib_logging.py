"""Records of the standard ``logging`` that are made while a level is in force, tied to it.

The handler sits on the root logger and leaves the application's logging as it is: levels, other handlers, propagation. So what the
root logger or a logger's own level holds back is not seen here either: for records of INFO, the root logger's level has to be INFO
or lower, as ``logging.basicConfig(level=logging.INFO)`` sets it. Records made outside of any level are not taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry import trace

from otel_progress import redaction
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.arguments import format_traceback, normalize_metadata
from otel_progress.instrument.context import current_level
from otel_progress.model import Status
from otel_progress.records import NO_ATTRIBUTES, Attribute, LogRecord
from otel_progress.text import MAX_DETAILS, MAX_NAME, truncate

if TYPE_CHECKING:
    from otel_progress.live.node import Node
    from otel_progress.live.store import LiveStore


MAX_ATTRIBUTES: Final = 32
"""Attributes (``extra=``) kept of a log record."""


_MAX_SEVERITY: Final = 2**31 - 1


_OWN: Final = ("otel_progress", "opentelemetry.exporter", "opentelemetry.sdk")
"""Loggers of what carries records away: one of theirs that was taken would be carried away in turn, and so on."""


_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    *("message", "asctime", "taskName"),
    *(
        "otelSpanID",
        "otelTraceID",
        "otelTraceSampled",
        "otelServiceName",
    ),  # of OpenTelemetry's own instrumentation of logging
}


class LogHandler(logging.Handler):
    """Hands records of at least ``level`` to the live store. Takes no lock, never waits, never raises."""

    def __init__(self, store: LiveStore, level: int) -> None:
        super().__init__(level)
        self._store = store
        self._inside = threading.local()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record without the lock of the handler: there is nothing to guard, and other threads are not to wait for it."""
        if not _is_own(record.name) and not getattr(self._inside, "handling", False):
            self._inside.handling = (
                True  # what a __str__ of an argument logs is not taken, or it would go on for ever
            )
            try:
                if self.filter(record):
                    self.emit(record)
            except Exception as error:
                report_internal_error("logs", "a log record could not be taken", error=error)
            finally:
                self._inside.handling = False
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a record with the level in force; nothing happens where none is."""
        level = current_level()
        node = None if level is None else level._node
        if node is not None and node.status is Status.RUNNING:
            self._store.add_log(node, _convert(record, node, self._store.now()))

    def install(self) -> None:
        """Begin to take records."""
        logging.getLogger().addHandler(self)

    def close(self) -> None:
        """Take no more."""
        logging.getLogger().removeHandler(self)
        super().close()


def _is_own(name: str) -> bool:
    return name.startswith(_OWN) and any(name == own or name.startswith(f"{own}.") for own in _OWN)


def _convert(record: logging.LogRecord, node: Node, at: float) -> LogRecord:
    operation = node.operation
    here = trace.get_current_span().get_span_context()
    trace_id, span_id = (here.trace_id, here.span_id) if here.is_valid else (node.trace or (0, 0))
    message, details, attributes = (
        redaction.redact_value("log", truncate(_message(record))),
        _details(record),
        _attributes(record),
    )
    return LogRecord(
        operation_id=operation.id,
        operation_type=operation.type,
        run=operation.run,
        path=node.path,
        number=operation.next_log(),  # now that nothing of the application's runs any more: numbers come in their order
        at=at,
        severity=_severity(record.levelno),
        severity_text=truncate(record.levelname, 32),
        logger=truncate(record.name, MAX_NAME),
        message=message,
        details=None if details is None else redaction.redact_value("details", details, MAX_DETAILS),
        attributes=attributes,
        trace_id=f"{trace_id:032x}" if trace_id else None,
        span_id=f"{span_id:016x}" if span_id else None,
    )


def _severity(number: object) -> int:
    return min(max(number, 0), _MAX_SEVERITY) if isinstance(number, int) else 0


def _message(record: logging.LogRecord) -> str:
    """Return the text of a record; where arguments do not fit the text, both as they are."""
    try:
        return record.getMessage()
    except Exception:  # a wrong % format, or an argument whose __str__ raises
        parts = (record.msg, *(record.args if isinstance(record.args, tuple) else (record.args,)))
        return " ".join(truncate(part, 256) for part in parts)


def _details(record: logging.LogRecord) -> str | None:
    """Return the traceback of a record, or the stack it was made on."""
    info = record.exc_info
    if isinstance(info, tuple) and isinstance(info[1], BaseException):
        return format_traceback(info[1])
    text = record.stack_info or (record.exc_text if info is None else None)
    return None if not text else truncate(str(text)[-MAX_DETAILS:], MAX_DETAILS)


def _attributes(record: logging.LogRecord) -> Mapping[str, Attribute]:
    """Return what was given as ``extra=``, as clean attributes."""
    extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    if not extra:
        return NO_ATTRIBUTES
    return normalize_metadata(dict(list(extra.items())[:MAX_ATTRIBUTES]))
