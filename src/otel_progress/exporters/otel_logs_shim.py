"""The only file that touches OpenTelemetry's logs modules: their names begin with an underscore, and they still move.

From 1.33 to 1.45 the way to emit an event changed three times: a record without an event name (1.33), a record with one and
with a context (1.35), and keyword arguments of ``emit`` (1.37). ``EventLog`` is the same over all of them.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import _logs as logs_api
from opentelemetry.context import Context
from opentelemetry.sdk import _logs as logs_sdk
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_progress.exporters.otlp import make_exporter, refusing
from otel_progress.exporters.otlp_sender import Patience, Sender, within
from otel_progress.exporters.otlp_settings import Protocol
from otel_progress.model import MetadataValue

_SCOPE: Final = "otel_progress"
MAX_SCOPES: Final = 500
"""Loggers whose records go out under their own name."""
_QUEUE: Final = 8192
_QUEUE_VARIABLE: Final = "OTEL_BLRP_MAX_QUEUE_SIZE"
_LEGACY_EVENT_NAME: Final = "event.name"
"""Where an event's name went before records had a field for it."""

_LogExporter: Any = getattr(logs_export, "LogRecordExporter", None) or logs_export.LogExporter
_LogExportResult: Any = getattr(logs_export, "LogRecordExportResult", None) or logs_export.LogExportResult


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event or log record to emit: ``at`` in Unix seconds, ids in hexadecimal or None, ``error`` for severity ERROR, not INFO.

    A log record has no ``name``; its ``severity`` is OpenTelemetry's number (1 to 24), ``scope`` the name of its logger.
    """

    name: str | None
    body: str
    at: float
    trace_id: str | None
    span_id: str | None
    attributes: Mapping[str, MetadataValue]
    error: bool = False
    severity: int | None = None
    severity_text: str | None = None
    scope: str | None = None


class EventLog:
    """Emits events through a LoggerProvider of the SDK, and closes it."""

    def __init__(self, provider: logs_sdk.LoggerProvider, sender: Sender[Any] | None = None) -> None:
        self._provider = provider
        self._sender = sender
        self._emit = _emitter(provider.get_logger(_SCOPE), provider.resource)
        self._by_scope: dict[str, Callable[[LogEvent], None]] = {}

    def emit(self, event: LogEvent) -> None:
        """Queue one event. Never waits."""
        (self._emit if event.scope is None else self._emitter_of(event.scope))(event)

    def _emitter_of(self, scope: str) -> Callable[[LogEvent], None]:
        """Return what emits for a logger; the loggers beyond a bound share one."""
        found = self._by_scope.get(scope)
        if found is None:
            if len(self._by_scope) >= MAX_SCOPES:
                return self._emit
            found = self._by_scope[scope] = _emitter(self._provider.get_logger(scope), self._provider.resource)
        return found

    def force_flush(self, timeout_s: float) -> bool:
        """Return True when all that was emitted is out within ``timeout_s`` seconds."""
        failures = 0 if self._sender is None else self._sender.failures
        in_time = within(timeout_s, self._provider.force_flush)
        return in_time and (self._sender is None or self._sender.failures == failures)

    def close(self) -> None:
        """Send what is pending, for as long as Patience allows, and close."""
        if self._sender is not None:
            self._sender.closing()
        self._provider.shutdown()


def build_event_log(
    resource: Resource, *, patience: Patience | None = None, on_error: Callable[[], object] | None = None
) -> EventLog:
    """Return an EventLog with the OTLP exporter that the environment describes. Raises ConfigurationError."""
    # One tick can start more levels than the SDK's default queue holds, and a start is never to be lost.
    size = None if os.environ.get(_QUEUE_VARIABLE) else _QUEUE
    with refusing("logs"):
        bounded = _BoundedLogExporter(make_exporter("logs", os.environ, _log_exporter), patience, on_error)
        provider = logs_sdk.LoggerProvider(resource=resource, shutdown_on_exit=False)
        with bounded.sender.stopped_on_error():
            provider.add_log_record_processor(logs_export.BatchLogRecordProcessor(bounded, max_queue_size=size))
        return EventLog(provider, bounded.sender)


class _BoundedLogExporter(_LogExporter):  # type: ignore[misc]  # its name depends on the version, see above
    """Sends records through a Sender, so that waiting for it has an end."""

    def __init__(self, exporter: Any, patience: Patience | None, on_error: Callable[[], object] | None) -> None:
        def export(batch: Sequence[Any]) -> bool:
            return bool(exporter.export(batch) is _LogExportResult.SUCCESS)

        self.sender: Sender[Sequence[Any]] = Sender("events", export, exporter.shutdown, patience=patience, on_error=on_error)

    def export(self, batch: Sequence[Any]) -> Any:
        return _LogExportResult.SUCCESS if self.sender.send(batch) else _LogExportResult.FAILURE

    def shutdown(self) -> None:
        self.sender.stop()

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's signature; nothing is kept here
        return True


def _log_exporter(chosen: Protocol) -> Any:
    if chosen == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

        return OTLPLogExporter()
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter

    return HttpLogExporter()


def _emitter(logger: Any, resource: Resource) -> Callable[[LogEvent], None]:
    if "event_name" in inspect.signature(logger.emit).parameters:
        return lambda event: logger.emit(context=_context(event), **_fields(event), event_name=event.name)
    record_type: Any = getattr(logs_sdk, "LogRecord", None) or logs_api.LogRecord
    accepted = inspect.signature(record_type.__init__).parameters

    def emit(event: LogEvent) -> None:
        fields = _fields(event)
        if "resource" in accepted:
            fields["resource"] = resource
        if "event_name" in accepted:
            fields["event_name"] = event.name
        elif event.name is not None:
            fields["attributes"] = {**event.attributes, _LEGACY_EVENT_NAME: event.name}
        if "context" in accepted:
            fields["context"] = _context(event)
        else:
            place = _span_context(event)
            fields.update(trace_id=place.trace_id, span_id=place.span_id, trace_flags=place.trace_flags)
        logger.emit(record_type(**fields))

    return emit


def _fields(event: LogEvent) -> dict[str, Any]:
    if event.severity is not None:
        severity = logs_api.SeverityNumber(event.severity)
    else:
        severity = logs_api.SeverityNumber.ERROR if event.error else logs_api.SeverityNumber.INFO
    at = int(event.at * 1e9)
    return {
        "timestamp": at,
        "severity_number": severity,
        "severity_text": severity.name if event.severity_text is None else event.severity_text,
        "body": event.body,
        "attributes": event.attributes,
    }


def _context(event: LogEvent) -> Context:
    """A context with the level's span and nothing else: whatever is current in the thread that emits has no part in it.

    The span is there even when it is the invalid one, as an empty context would mean the current one.
    """
    return set_span_in_context(NonRecordingSpan(_span_context(event)), Context())


def _span_context(event: LogEvent) -> SpanContext:
    try:
        trace_id, span_id = int(event.trace_id or "0", 16), int(event.span_id or "0", 16)
    except ValueError:
        return INVALID_SPAN_CONTEXT
    place = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))
    return place if place.is_valid else INVALID_SPAN_CONTEXT
