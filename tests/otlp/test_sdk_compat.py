"""EventLog on the real logs SDK, in whatever version is installed: what one emitted event becomes."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from otel_progress import semconv
from otel_progress.otlp.sdk_compat import LogEvent
from tests.support.otlp_log_exporter import emitted
from tests.support.otlp_records import SPAN, TRACE, WALL


def test_event_becomes_a_record_with_all_its_parts() -> None:
    """Name, time, severity, text, attributes and the span it belongs to arrive as they were given."""
    (record,) = emitted(
        LogEvent(semconv.EVENT_STARTED, "text", WALL + 0.5, TRACE, SPAN, {semconv.CURRENT: 3})
    )
    assert record.event_name == semconv.EVENT_STARTED
    assert dict(record.attributes) == {semconv.CURRENT: 3}
    assert (record.body, record.severity_text, record.severity_number.value) == ("text", "INFO", 9)
    assert (record.trace_id, record.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert record.timestamp == int((WALL + 0.5) * 1e9)


def test_error_has_severity_error() -> None:
    """An event of a failure is an error."""
    (record,) = emitted(LogEvent(semconv.EVENT_FINISHED, "text", WALL, TRACE, SPAN, {}, error=True))
    assert (record.severity_text, record.severity_number.value) == ("ERROR", 17)


@pytest.mark.parametrize(
    ("trace_id", "span_id"), [(None, None), ("nonsense", SPAN), (TRACE, ""), ("f" * 33, SPAN)]
)
def test_without_a_valid_place_the_current_span_has_no_part_in_it(
    trace_id: str | None, span_id: str | None
) -> None:
    """An event without valid ids belongs to no span, whatever span is current in the thread that emits it."""
    current = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    with trace.use_span(current):
        (record,) = emitted(LogEvent(semconv.EVENT_HEARTBEAT, "text", WALL, trace_id, span_id, {}))
    assert (record.trace_id or 0, record.span_id or 0) == (0, 0)


def test_disabled_sdk_emits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``OTEL_SDK_DISABLED=true`` events go nowhere and nothing raises."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert emitted(LogEvent(semconv.EVENT_STARTED, "text", WALL, TRACE, SPAN, {})) == []
