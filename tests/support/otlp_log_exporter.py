"""An in-memory exporter of the logs SDK that stores the records of emitted events."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk import _logs as logs_sdk
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk.resources import Resource

from otel_progress.otlp.sdk_compat import MAX_SCOPES, EventLog, LogEvent

InMemory: Any = getattr(logs_export, "InMemoryLogRecordExporter", None) or logs_export.InMemoryLogExporter


def emitted(*events: LogEvent, max_scopes: int = MAX_SCOPES) -> list[Any]:
    """Return the records that events become."""
    exporter = InMemory()
    provider = logs_sdk.LoggerProvider(resource=Resource({"service.name": "nightly"}), shutdown_on_exit=False)
    provider.add_log_record_processor(logs_export.SimpleLogRecordProcessor(exporter))
    log = EventLog(provider, max_scopes=max_scopes)
    for event in events:
        log.emit(event)
    records = [finished.log_record for finished in exporter.get_finished_logs()]
    log.close()
    return records
