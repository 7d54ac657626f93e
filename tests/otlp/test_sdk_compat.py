"""EventLog on the installed version of the logs SDK."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from otel_progress import semconv
from otel_progress.otlp.sdk_compat import LogEvent
from tests.support.otlp_log_exporter import emitted
from tests.support.otlp_records import SPAN, TRACE, WALL


def test_event_becomes_a_record_with_all_fields() -> None:
    """Name, time, severity, text, attributes and span are kept."""
    (record,) = emitted(
        LogEvent(semconv.EVENT_STARTED, "text", WALL + 0.5, TRACE, SPAN, {semconv.CURRENT: 3})
    )
    assert record.event_name == semconv.EVENT_STARTED
    assert dict(record.attributes) == {semconv.CURRENT: 3}
    assert (record.body, record.severity_text, record.severity_number.value) == ("text", "INFO", 9)
    assert (record.trace_id, record.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert record.timestamp == int((WALL + 0.5) * 1e9)


def test_error_event_has_severity_error() -> None:
    """The text is ERROR as well."""
    (record,) = emitted(LogEvent(semconv.EVENT_FINISHED, "text", WALL, TRACE, SPAN, {}, error=True))
    assert (record.severity_text, record.severity_number.value) == ("ERROR", 17)


@pytest.mark.parametrize(
    ("trace_id", "span_id"), [(None, None), ("nonsense", SPAN), (TRACE, ""), ("f" * 33, SPAN)]
)
def test_event_without_valid_ids_does_not_use_the_current_span(
    trace_id: str | None, span_id: str | None
) -> None:
    """Another span is current in the emitting thread."""
    current = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    with trace.use_span(current):
        (record,) = emitted(LogEvent(semconv.EVENT_HEARTBEAT, "text", WALL, trace_id, span_id, {}))
    assert (record.trace_id or 0, record.span_id or 0) == (0, 0)


def test_disabled_sdk_emits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exception is raised."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert emitted(LogEvent(semconv.EVENT_STARTED, "text", WALL, TRACE, SPAN, {})) == []
