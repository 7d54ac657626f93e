"""Adapter to OpenTelemetry's logs modules, and the only module that imports them.

Their names start with an underscore and still change. ``emit`` takes keyword arguments from 1.38
on. In 1.37 it takes a record of the SDK.
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
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from otel_progress.model import MetadataValue
from otel_progress.otlp.bounded import ExportMonitor, ShutdownBudget, report_unsent_records
from otel_progress.otlp.environment import Protocol
from otel_progress.otlp.exporters import configuration_errors, make_exporter
from otel_progress.otlp.instance_id import set_instance_id
from otel_progress.otlp.unconfirmed_ends import UnconfirmedEnds

_SCOPE: Final = "otel_progress"


MAX_SCOPES: Final = 500
"""Maximum number of loggers with a scope of their own. The others share one scope."""


MAX_PATH: Final = 4096
"""Maximum length of a path in an attribute, in characters."""


INT64_LIMIT: Final = 1 << 63
"""Limit of integers that OTLP can represent, from ``-INT64_LIMIT`` to ``INT64_LIMIT - 1``."""


_QUEUE: Final = 8192


_QUEUE_VARIABLE: Final = "OTEL_BLRP_MAX_QUEUE_SIZE"


_EMIT_TAKES_KEYWORDS: Final = "event_name" in inspect.signature(logs_sdk.Logger.emit).parameters


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event or log record to emit.

    ``at`` is in Unix seconds. The ids are in hexadecimal or None. ``error`` selects the severity
    ERROR instead of INFO. A log record has no ``name``. Its ``severity`` is OpenTelemetry's number
    (1 to 24), and its ``scope`` is the name of its logger.
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
    """Emits events through a LoggerProvider of the SDK, and closes it.

    ``monitor`` is that of the provider's exporter, if there is one.
    """

    def __init__(
        self,
        provider: logs_sdk.LoggerProvider,
        monitor: ExportMonitor[Any] | None = None,
        *,
        max_scopes: int = MAX_SCOPES,
        send_ends_again: Callable[[], object] = lambda: None,
    ) -> None:
        self._max_scopes = max_scopes
        self._send_ends_again = send_ends_again
        self._provider = provider
        self._monitor = monitor
        self._logger: Any = provider.get_logger(_SCOPE)
        self._loggers: dict[str, Any] = {}

    def emit(self, event: LogEvent) -> None:
        """Queue one event. Never waits."""
        logger = self._logger if event.scope is None else self._get_logger(event.scope)
        fields = _to_fields(event)
        if _EMIT_TAKES_KEYWORDS:
            logger.emit(**fields)
        else:
            sdk: Any = logs_sdk
            logger.emit(sdk.LogRecord(resource=self._provider.resource, **fields))

    def _get_logger(self, scope: str) -> Any:
        """Return the logger of a scope. Scopes beyond ``max_scopes`` share one."""
        logger = self._loggers.get(scope)
        if logger is None:
            if len(self._loggers) >= self._max_scopes:
                return self._logger
            logger = self._loggers[scope] = self._provider.get_logger(scope)
        return logger

    def restart(self, instance_id: str) -> None:
        """Continue as another process, as a forked child does."""
        set_instance_id(self._provider, [self._logger, *self._loggers.values()], instance_id)

    @property
    def is_failing(self) -> bool:
        """True from a failed export to the next successful one."""
        return self._monitor is not None and self._monitor.is_failing

    def export_now(self) -> None:
        """Export all emitted events on the current thread."""
        self._provider.force_flush()

    def force_flush(self, timeout_s: float) -> bool:
        """Return True if all emitted events were accepted within ``timeout_s`` seconds."""
        self._send_ends_again()
        return self._monitor is None or self._monitor.flush(timeout_s, self._provider.force_flush)

    def close(self) -> None:
        """Export pending events within the ShutdownBudget, then close."""
        self._provider.shutdown()


def build_event_log(
    resource: Resource,
    *,
    budget: ShutdownBudget | None = None,
    on_error: Callable[[], object] | None = None,
    on_dropped: Callable[[int], object] | None = None,
) -> EventLog:
    """Return an EventLog with the OTLP exporter that the environment describes.

    ``on_dropped`` is called with the number of ends that were never accepted, beyond a limit.
    Raises ConfigurationError.
    """
    # Why: one tick can start more levels than the SDK's default queue holds, and a start must
    # never be lost.
    size = None if os.environ.get(_QUEUE_VARIABLE) else _QUEUE
    with configuration_errors("logs"):
        bounded = _BoundedLogExporter(make_exporter("logs", os.environ, _make_log_exporter), budget, on_error)
        provider = logs_sdk.LoggerProvider(resource=resource, shutdown_on_exit=False)
        with bounded.monitor.stopped_on_error():
            processor = _BoundedLogProcessor(bounded, max_queue_size=size, on_dropped=on_dropped)
            provider.add_log_record_processor(processor)
        return EventLog(provider, bounded.monitor, send_ends_again=processor.ends.send_again)


class _BoundedLogExporter:
    """Exports records through an ExportMonitor.

    It has no base class, because the SDK renamed that one in 1.39.
    """

    def __init__(
        self, exporter: Any, budget: ShutdownBudget | None, on_error: Callable[[], object] | None
    ) -> None:
        def export(batch: Sequence[Any]) -> bool:
            return bool(exporter.export(batch).name == "SUCCESS")

        self.monitor: ExportMonitor[Sequence[Any]] = ExportMonitor(
            "events", export, exporter.shutdown, budget=budget, on_error=on_error
        )
        self.ends: UnconfirmedEnds | None = None

    def export(self, batch: Sequence[Any]) -> None:
        accepted = self.monitor.export(batch)
        if self.ends is not None:
            self.ends.handle_export(batch, accepted=accepted)

    def shutdown(self) -> None:
        self.monitor.stop()


class _BoundedLogProcessor(logs_export.BatchLogRecordProcessor):
    """A batch processor whose ``shutdown`` honours the ShutdownBudget."""

    def __init__(
        self,
        exporter: _BoundedLogExporter,
        *,
        max_queue_size: int | None,
        on_dropped: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__(exporter, max_queue_size=max_queue_size)  # type: ignore[arg-type]
        self._monitor = exporter.monitor
        self.ends = exporter.ends = UnconfirmedEnds(self._queue_again, on_dropped=on_dropped)

    def _queue_again(self, records: list[Any]) -> bool:
        """Queue records for export. Return False if the queue has no space for them."""
        processor: Any = self._batch_processor
        if len(processor._queue) + len(records) > (processor._queue.maxlen or 0):
            return False
        for record in records:
            processor.emit(record)
        return True

    def shutdown(self) -> None:
        self.ends.close()
        # Why: the public shutdown() takes no timeout and waits 30 s.
        with self._monitor.budget.wait() as timeout_s:
            self._batch_processor.shutdown(timeout_millis=int(timeout_s * 1000))
        report_unsent_records(self._batch_processor, self._monitor)


def _make_log_exporter(protocol: Protocol) -> Any:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

        return OTLPLogExporter()
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter

    from otel_progress.otlp.http_session import make_session

    return HttpLogExporter(session=make_session("logs"))


def _to_fields(event: LogEvent) -> dict[str, Any]:
    if event.severity is not None:
        severity = logs_api.SeverityNumber(event.severity)
    else:
        severity = logs_api.SeverityNumber.ERROR if event.error else logs_api.SeverityNumber.INFO
    return {
        "timestamp": int(event.at * 1e9),
        "context": _build_context(event),
        "severity_number": severity,
        "severity_text": severity.name if event.severity_text is None else event.severity_text,
        "body": event.body,
        "attributes": event.attributes,
        "event_name": event.name,
    }


def _build_context(event: LogEvent) -> Context:
    """Return a context with only the level's span.

    The current context of the emitting thread is ignored. An invalid span is set as well, because
    an empty context means the current one.
    """
    return set_span_in_context(NonRecordingSpan(_build_span_context(event)), Context())


def _build_span_context(event: LogEvent) -> SpanContext:

    try:
        trace_id, span_id = int(event.trace_id or "0", 16), int(event.span_id or "0", 16)
    except ValueError:
        return INVALID_SPAN_CONTEXT
    context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))
    return context if context.is_valid else INVALID_SPAN_CONTEXT
