"""Captured log records over OTLP, from a real process and from single records."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from otel_progress import semconv
from otel_progress.otlp.logs import MAX_ATTRIBUTES, OtlpLogs, build_log_event, to_severity_number
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.records import LogRecord
from tests.support.factories import make_change_set
from tests.support.otlp_log_exporter import emitted
from tests.support.otlp_receiver import attributes, receiving, value

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
WORKER = """
import logging
import otel_progress as progress
from otel_progress.otlp.bounded import ShutdownBudget

ShutdownBudget.__init__.__defaults__ = (60.0,)  # the time limit has tests of its own

logging.basicConfig(level=logging.INFO, filename="/dev/null")
log = logging.getLogger("nightly.import")
with progress.configure(console=False, store="memory:", capture_logs=%r) as runtime:
    log.info("outside")
    with progress.operation("nightly_import", "Friday", id="friday", total=2) as op:
        with op.level("file", "a"):
            log.warning("password=%%s", "hunter2", extra={"size": 3})
            try:
                raise ValueError("unreadable")
            except ValueError:
                log.exception("could not read")
    assert runtime.force_flush(60.0)
"""


def run_worker(port: int, capture: Any, **variables: str) -> None:
    """Run the worker against the receiver."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
        "OTEL_METRICS_EXPORTER": "none",
        **variables,
    }
    code = WORKER % (capture,)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.process
def test_captured_records_arrive_with_span_severity_and_path() -> None:
    """Each record arrives once and redacted."""
    with receiving() as receiver:
        run_worker(receiver.port, True)
        spans = {span.name: span for _, span in receiver.spans()}
        records = [record for _, record in receiver.records() if not record.event_name]
        events = {record.event_name for _, record in receiver.records() if record.event_name}
        (run,) = {attributes(record)[semconv.RUN] for _, record in receiver.records()}
    assert [(value(record.body), record.severity_text, record.severity_number) for record in records] == [
        ("password=[redacted]", "WARNING", 13),
        ("could not read", "ERROR", 17),
    ]
    warning, error = records
    assert {(record.trace_id, record.span_id) for record in records} == {
        (spans["file"].trace_id, spans["file"].span_id)
    }
    assert attributes(warning) == {
        "size": 3,
        semconv.OPERATION_ID: "friday",
        semconv.RUN: run,
        semconv.OPERATION_TYPE: "nightly_import",
        semconv.PATH: "file:a",
    }
    assert "ValueError: unreadable" in attributes(error)[semconv.EXCEPTION_STACKTRACE]
    assert {semconv.EVENT_STARTED, semconv.EVENT_FINISHED} <= events


@pytest.mark.process
def test_records_need_capture_logs_and_the_logs_signal() -> None:
    """Without the signal there are no events either."""
    with receiving() as receiver:
        run_worker(receiver.port, False)
        assert receiver.records()
        assert all(record.event_name for _, record in receiver.records())
    with receiving() as receiver:
        run_worker(receiver.port, True, OTEL_LOGS_EXPORTER="none")
        assert receiver.records() == []


def make_record(**fields: Any) -> LogRecord:
    """Return a log record with these fields."""
    values: dict[str, Any] = {
        "operation_id": "friday-42",
        "operation_type": "setlist",
        "run": "run-1",
        "path": "song:1",
        "number": 1,
        "at": 1_700_000_000.5,
        "severity": logging.WARNING,
        "severity_text": "WARNING",
        "logger": "nightly",
        "message": "text",
        "trace_id": TRACE,
        "span_id": SPAN,
    }
    return LogRecord(**{**values, **fields})


def test_log_event_has_time_severity_ids_and_scope() -> None:
    """It has no event name."""
    (one,) = emitted(build_log_event(make_record(attributes={"size": 3, "parts": ("a", "b")})))
    assert not getattr(one, "event_name", None)
    assert (one.body, one.severity_text, one.severity_number.value) == ("text", "WARNING", 13)
    assert (one.trace_id, one.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert one.timestamp == int(1_700_000_000.5 * 1e9)
    assert dict(one.attributes)["size"] == 3
    assert tuple(dict(one.attributes)["parts"]) == ("a", "b")


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (0, 1),
        (1, 1),
        (5, 3),
        (9, 4),
        (10, 5),
        (15, 7),
        (20, 9),
        (25, 11),
        (30, 13),
        (40, 17),
        (50, 21),
        (99, 24),
        (2**31, 24),
        (-5, 1),
    ],
)
def test_severity_number_of_any_level_keeps_the_order(level: int, number: int) -> None:
    """Levels may be any integer."""
    assert to_severity_number(level) == number


def test_record_with_extreme_values_is_emitted_within_limits() -> None:
    """Integers beyond 64 bits and invalid ids are dropped."""
    attributes_: dict[str, Any] = {f"key {number}\x1b": "x" * 1024 for number in range(100)}
    hostile = make_record(
        message="\x1b[31m" * 200,
        logger="x" * 256,
        path="p:\u202e" * 3000,
        attributes={"big": 2**80, **attributes_},
        details="d" * 8192,
        trace_id="nonsense",
        severity=-(2**70),
    )
    (one,) = emitted(build_log_event(hostile))
    assert len(one.attributes) <= MAX_ATTRIBUTES + 4
    assert "big" not in one.attributes
    assert (one.trace_id or 0) == 0


def test_loggers_beyond_the_limit_share_a_scope() -> None:
    """Their records are emitted."""
    events = [build_log_event(make_record(logger=f"logger {number}")) for number in range(10)]
    assert len(emitted(*events, max_scopes=3)) == 10


def test_close_leaves_the_shared_emitter_open() -> None:
    """The sink of the events closes it."""

    class Emitter:
        def __init__(self) -> None:
            self.told: list[LogEvent] = []
            self.closed = False

        def emit(self, event: LogEvent) -> None:
            assert not self.closed
            self.told.append(event)

        def close(self) -> None:
            self.closed = True

    emitter = Emitter()
    sink = OtlpLogs(emitter)
    sink.write(make_change_set(logs=[make_record(), make_record(number=2)]))
    sink.close()
    assert (len(emitter.told), emitter.closed) == (2, False)
