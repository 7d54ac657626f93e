"""Capture of ``logging`` records that are emitted while a level is current.

Each logger calls ``Logger.filter`` for the records that its level permits, before its handlers.
This method is extended, and no handler is added. So records are captured in any order of logging
set-up, without handlers and without propagation. Levels, filters, handlers and their output are
unchanged. Records outside any level are ignored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from otel_progress import redaction
from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.arguments import normalize_metadata
from otel_progress.instrument.context import get_current_level
from otel_progress.instrument.failures import format_traceback
from otel_progress.interrupts import is_interrupt
from otel_progress.model import Status
from otel_progress.records import NO_ATTRIBUTES, Attribute, LogRecord
from otel_progress.text import MAX_DETAILS, MAX_NAME, truncate

if TYPE_CHECKING:
    from otel_progress.live.node import Node
    from otel_progress.live.store import LiveStore


MAX_ATTRIBUTES: Final = 32
"""Maximum number of attributes (``extra=``) per log record. Further attributes are dropped."""


_MAX_SEVERITY: Final = 2**31 - 1


_OWN_LOGGERS: Final = ("otel_progress", "opentelemetry.exporter", "opentelemetry.sdk")
"""Loggers of this package and of the exporters. Capturing them would export their records forever.
"""


_STANDARD_ATTRIBUTES: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    *("message", "asctime", "taskName"),
    # Attributes that OpenTelemetry's own instrumentation of logging adds.
    *("otelSpanID", "otelTraceID", "otelTraceSampled", "otelServiceName"),
}


class LogCapture:
    """Adds records of at least ``level`` to the live store.

    It captures the records that a logger accepts. ``level`` is a number of ``logging``. Never
    raises and takes no lock.
    """

    def __init__(self, store: LiveStore, level: int) -> None:
        self._store = store
        self._level = level
        self._inside = threading.local()
        # Why filter: the stack of a failing handler, which logging prints, contains no frame of
        # this package.
        self._patch = AttributePatch(logging.Logger, "filter")

    def install(self) -> None:
        """Start capturing records."""
        if not self._patch.is_active:
            self._patch.apply(self._build_filter)

    def close(self) -> None:
        """Stop capturing records."""
        self._patch.remove()

    def _build_filter(self, original: Callable[..., Any]) -> Callable[..., Any]:
        patch, capture = self._patch, self.capture

        def filter_and_capture(logger: logging.Logger, record: logging.LogRecord) -> Any:
            accepted = original(logger, record)
            if accepted and patch.is_active:
                # Since Python 3.12 a filter may replace the record.
                capture(accepted if isinstance(accepted, logging.LogRecord) else record)
            return accepted

        return filter_and_capture

    def capture(self, record: logging.LogRecord) -> None:
        """Add a record to the current level. Without a running level, do nothing."""
        try:
            if record.levelno < self._level:
                return
            level = get_current_level()
            if level is None:
                return
            node = level._node
            inside = self._inside
            # Why: the __str__ of an argument may log. Capturing that could recurse indefinitely.
            if node is None or node.status is not Status.RUNNING or getattr(inside, "capturing", False):
                return
            if _is_own_logger(record.name):
                return
            try:
                inside.capturing = True
                self._store.add_log(node, _convert(record, node, self._store.read_time(node.operation)))
            finally:
                inside.capturing = False
        except Exception as error:
            report_internal_error("logs", "A log record could not be captured", error=error)


def _is_own_logger(name: str) -> bool:
    return name.startswith(_OWN_LOGGERS) and any(
        name == own or name.startswith(f"{own}.") for own in _OWN_LOGGERS
    )


def _convert(record: logging.LogRecord, node: Node, at: float) -> LogRecord:
    operation = node.operation
    span = trace.get_current_span().get_span_context()
    trace_id, span_id = (span.trace_id, span.span_id) if span.is_valid else (node.trace or (0, 0))
    # Why before the number: these calls run code of the application, which may log as well.
    message = redaction.redact_value("log", truncate(_get_message(record)))
    details = _get_details(record)
    attributes = _get_attributes(record)
    return LogRecord(
        operation_id=operation.id,
        operation_type=operation.type,
        run=operation.run,
        path=node.path,
        number=operation.next_log(),
        at=at,
        severity=_to_severity(record.levelno),
        severity_text=truncate(record.levelname, 32),
        logger=redaction.redact_id(truncate(record.name, MAX_NAME)),
        message=message,
        details=None if details is None else redaction.redact_value("details", details, MAX_DETAILS),
        attributes=attributes,
        trace_id=f"{trace_id:032x}" if trace_id else None,
        span_id=f"{span_id:016x}" if span_id else None,
    )


def _to_severity(number: object) -> int:
    return min(max(number, 0), _MAX_SEVERITY) if isinstance(number, int) else 0


def _get_message(record: logging.LogRecord) -> str:
    """Return the text of a record.

    If formatting fails, join the format and its arguments.
    """
    try:
        return record.getMessage()
    except Exception as failure:  # a wrong % format, or an argument whose __str__ raises
        if is_interrupt(failure):
            raise
        parts = (record.msg, *(record.args if isinstance(record.args, tuple) else (record.args,)))
        return " ".join(truncate(part, 256) for part in parts)


def _get_details(record: logging.LogRecord) -> str | None:
    """Return the traceback of a record, or its stack."""
    info = record.exc_info
    if isinstance(info, tuple) and isinstance(info[1], BaseException):
        return format_traceback(info[1])
    text = record.stack_info or (record.exc_text if info is None else None)
    return None if not text else truncate(str(text)[-MAX_DETAILS:], MAX_DETAILS)


def _get_attributes(record: logging.LogRecord) -> Mapping[str, Attribute]:
    """Return the values of ``extra=`` as normalised attributes."""
    extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD_ATTRIBUTES}
    if not extra:
        return NO_ATTRIBUTES
    return normalize_metadata(dict(list(extra.items())[:MAX_ATTRIBUTES]))
