"""Received log records of applications, in a real journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_progress import redaction, semconv
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.model import LevelSnapshot, Status
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.logs import build_log_event, to_severity_number
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import ChangeSet, LogQuery
from otel_progress.receivers import json_encoding, protobuf
from otel_progress.receivers.logs import LogBuffer
from otel_progress.receivers.receiver import Receipt, Receiver, ReceiverLimits
from otel_progress.receivers.telemetry import Encoding, ReceivedLog
from otel_progress.records import LogRecord
from tests.support.fake_time import FakeTime
from tests.support.otlp_records import INSTANCE, SPAN, TRACE, WALL, ended, level
from tests.support.otlp_requests import (
    RESOURCE,
    build_json_request,
    build_protobuf_request,
    build_span_request,
)

STARTED, UPDATED, FINISHED = semconv.EVENT_STARTED, semconv.EVENT_UPDATED, semconv.EVENT_FINISHED
SONG_SPAN = "00000000000000a1"
CHILD_SPAN = "00000000000000c1"
SHIPPER = {"service.name": "shipper", "service.instance.id": "shipper-1"}
BUILDERS: list[tuple[Callable[..., bytes], Encoding]] = [
    (build_json_request, "json"),
    (build_protobuf_request, "protobuf"),
]


@pytest.fixture
def fake_time() -> FakeTime:
    """Clocks of the journal."""
    return FakeTime(WALL + 60.0)


@pytest.fixture
def journal(tmp_path: Path, fake_time: FakeTime) -> Iterator[SqliteJournal]:
    """An empty journal."""
    journal = SqliteJournal(tmp_path / "progress.db", now=fake_time.read_now, clock=fake_time.read_clock)
    yield journal
    journal.close()


@pytest.fixture
def receiver(journal: SqliteJournal, fake_time: FakeTime) -> Receiver:
    """A receiver that writes to the journal."""
    return Receiver(journal, wall=fake_time.read_now)


def make_log(
    body: str = "mixing",
    *,
    at: float = 1.0,
    trace_id: str | None = TRACE,
    span_id: str | None = SPAN,
    severity: int = 9,
    attributes: Mapping[str, Any] | None = None,
    **values: Any,
) -> LogEvent:
    """Return a log record of a foreign program ``at`` seconds after the start."""
    return LogEvent(None, body, WALL + at, trace_id, span_id, attributes or {}, severity=severity, **values)


def make_root(**values: Any) -> LevelSnapshot:
    """Return the operation, whose span is SPAN."""
    return level(**values)


def make_song(**values: Any) -> LevelSnapshot:
    """Return a level, whose span is SONG_SPAN."""
    return level("song:1", **{"span_id": SONG_SPAN, **values})


def report(snapshot: LevelSnapshot, name: str = UPDATED, at: float = 1.0) -> LogEvent:
    """Return an event of a level."""
    return build_level_event(name, snapshot, WALL + at)


def send(receiver: Receiver, *events: LogEvent, resource: Mapping[str, Any] = RESOURCE) -> Receipt:
    """Send one request."""
    return receiver.receive_logs(build_protobuf_request(events, resource), "protobuf")


def read(journal: SqliteJournal, operation_id: str = "friday-42") -> list[tuple[str, str]]:
    """Return path and message of the stored log records."""
    return [(record.path, record.message) for record in journal.logs(operation_id)]


@pytest.mark.parametrize(("build", "encoding"), BUILDERS)
def test_log_record_belongs_to_the_level_of_its_span(
    receiver: Receiver, journal: SqliteJournal, build: Callable[..., bytes], encoding: Encoding
) -> None:
    """All values are stored, and secrets are replaced."""
    attributes = {
        "exception.stacktrace": "Traceback: token=abcdefghijklmnop",
        "exception.type": "OSError",
        "password": "hunter2",
        "sizes": (3, 4),
    }
    events = [
        make_log("start"),
        report(make_root()),
        report(make_song()),
        make_log(
            "login password=hunter2",
            at=2.25,
            span_id=SONG_SPAN,
            severity=17,
            severity_text="ERROR",
            scope="app.mixer",
            attributes=attributes,
        ),
    ]
    receipt = receiver.receive_logs(build(events), encoding)
    assert receipt == Receipt(accepted=4)
    first, second = journal.logs("friday-42")
    assert (first.path, first.message, first.severity, first.severity_text) == ("", "start", 20, "INFO")
    assert (first.details, dict(first.attributes)) == (None, {})
    assert second == LogRecord(
        operation_id="friday-42",
        operation_type="setlist",
        run="run-1",
        path="song:1",
        number=second.number,
        at=pytest.approx(WALL + 2.25, abs=1e-6),
        severity=40,
        severity_text="ERROR",
        logger="app.mixer",
        message="login password=[redacted]",
        details="Traceback: token=[redacted]",
        attributes={"exception.type": "OSError", "password": "[redacted]", "sizes": (3, 4)},
        trace_id=TRACE,
        span_id=SONG_SPAN,
    )


def test_log_records_wait_for_the_events_of_their_levels(receiver: Receiver, journal: SqliteJournal) -> None:
    """They are stored once, also if they are sent again, and with the sender's order."""
    logs = [make_log("in song", span_id=SONG_SPAN), make_log("outside", at=1.5)]
    for _ in range(2):
        assert send(receiver, *logs).rejected == 0
    assert journal.logs("friday-42") == []
    receipt = send(receiver, report(make_root()), report(make_song()))
    assert receipt.accepted == 4
    send(receiver, *logs)
    assert read(journal) == [("song:1", "in song"), ("", "outside")]


def test_log_record_waits_for_a_span_of_another_tool(receiver: Receiver, journal: SqliteJournal) -> None:
    """Spans with progress are levels too."""
    send(receiver, make_log("reading", span_id=SONG_SPAN))
    span = {
        "traceId": TRACE,
        "spanId": SONG_SPAN,
        "name": "import",
        "startTimeUnixNano": str(round(WALL * 1e9)),
        "attributes": {semconv.OPERATION_ID: "import-7", semconv.CURRENT: 4, semconv.TOTAL: 10},
    }
    assert receiver.receive_spans(build_span_request(span), "json").accepted == 2
    assert read(journal, "import-7") == [("", "reading")]


def test_log_record_in_another_span_belongs_to_the_operation_of_the_trace(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """Also that of another process, and after the end of the operation."""
    send(receiver, report(make_root()), report(make_song()), make_log("child", span_id=CHILD_SPAN))
    send(receiver, report(ended(make_root(), 2.0), FINISHED, 2.0))
    send(receiver, make_log("service", span_id=CHILD_SPAN, at=3.0), resource=SHIPPER)
    assert read(journal) == [("", "child"), ("", "service")]
    assert journal.history()[0].instance is not None
    assert journal.history()[0].instance.id == INSTANCE.id


def test_attributes_of_a_log_record_have_precedence_over_its_span(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """The id of the operation is enough, in any order. The run is the newest one."""
    stated = {semconv.OPERATION_ID: "friday-42", semconv.PATH: "song:1"}
    send(receiver, make_log("first", attributes=stated, trace_id=None, span_id=None))
    send(receiver, report(make_root()))
    send(receiver, make_log("second", attributes={semconv.OPERATION_ID: "friday-42"}, span_id=SONG_SPAN))
    assert read(journal) == [("song:1", "first"), ("", "second")]
    other = {semconv.OPERATION_ID: "friday-42", semconv.PATH: "no path"}
    receipt = send(receiver, make_log(attributes=other))
    assert (receipt.rejected, "no path" in receipt.reason) == (1, True)


def test_time_decides_between_operations_of_one_trace(receiver: Receiver, journal: SqliteJournal) -> None:
    """A record that two operations could have waits for its span."""
    first = make_root(span_id=SONG_SPAN, operation_id="first", run="run-1")
    second = make_root(span_id=SPAN, operation_id="second", run="run-2", started=5.0, clock=5.0)
    send(receiver, report(ended(first, 4.0), FINISHED, 4.0), report(second, at=5.0))
    send(receiver, make_log("early", at=3.0, span_id=CHILD_SPAN))
    send(receiver, make_log("late", at=6.0, span_id=CHILD_SPAN))
    third = make_root(span_id="00000000000000d1", operation_id="third", run="run-3", started=7.0, clock=7.0)
    send(receiver, report(third, at=7.0), make_log("both", at=8.0, span_id=CHILD_SPAN))
    assert read(journal, "first") == [("", "early")]
    assert read(journal, "second") == [("", "late")]
    assert read(journal, "third") == []
    song = level("song:1", run="run-3", operation_id="third", span_id=CHILD_SPAN, started=7.0)
    send(receiver, report(song, at=9.0))
    assert read(journal, "third") == [("song:1", "both")]


def test_operations_of_other_processes_do_not_have_log_records_of_the_trace(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """One process calls another one, and both have an operation in the same trace."""
    send(receiver, report(make_root(operation_id="caller", run="run-1")))
    callee = make_root(operation_id="callee", run="run-2", span_id=SONG_SPAN)
    send(receiver, report(callee), resource=SHIPPER)
    send(receiver, make_log("of caller", span_id=CHILD_SPAN))
    send(receiver, make_log("of callee", span_id=CHILD_SPAN), resource=SHIPPER)
    assert (read(journal, "caller"), read(journal, "callee")) == ([("", "of caller")], [("", "of callee")])


def test_levels_that_report_in_one_span_leave_its_log_records_to_the_level_above(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """A program may send all its events in the span of a request."""
    paths = ("song:1/stem:1", "song:1/stem:2")
    send(receiver, report(make_root(span_id=CHILD_SPAN)), *[report(level(path)) for path in paths])
    send(receiver, make_log("between"))
    assert read(journal) == [("song:1", "between")]


def test_equal_records_of_one_request_are_different_ones(receiver: Receiver, journal: SqliteJournal) -> None:
    """A repeated request adds none."""
    for _ in range(2):
        send(receiver, report(make_root()), make_log("retry"), make_log("retry"), make_log("retry"))
    assert read(journal) == [("", "retry")] * 3


def test_numbers_of_log_records_follow_their_arrival(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """A client that polls by number gets late records, also after a restart."""
    send(receiver, report(make_root()), make_log("second", at=2.0))
    (second,) = journal.logs("friday-42")
    send(receiver, make_log("first", at=1.0))
    assert [record.message for record in journal.logs("friday-42", LogQuery(after=second.number))] == [
        "first"
    ]
    restarted = Receiver(journal, wall=fake_time.read_now)
    send(restarted, make_log("third", at=3.0), report(make_root(sequence=9), at=3.0))
    assert [message for _, message in read(journal)] == ["second", "first", "third"]


def test_waiting_log_records_are_limited_per_sender_and_counted(
    journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The oldest are dropped, and no sender replaces the records of another one."""
    limits = ReceiverLimits(waiting_logs=5, waiting_logs_per_sender=3)
    receiver = Receiver(journal, wall=fake_time.read_now, limits=limits)
    send(receiver, make_log("mine"))
    other_trace = "f" * 32
    noise = [make_log(f"noise {number}", trace_id=other_trace) for number in range(50)]
    receipt = send(receiver, *noise, resource=SHIPPER)
    assert (receipt.accepted, receipt.dropped) == (0, 47)
    assert send(receiver, report(make_root())).dropped == 0
    assert read(journal) == [("", "mine")]
    noisy = make_root(operation_id="noisy", run="run-2", trace_id=other_trace)
    assert send(receiver, report(noisy), resource=SHIPPER).accepted == 4
    assert [message for _, message in read(journal, "noisy")] == ["noise 47", "noise 48", "noise 49"]


def test_log_buffer_is_limited_by_number_and_size() -> None:
    """Removed and dropped records leave nothing behind."""
    record = ReceivedLog(WALL, TRACE, SPAN, 9, "", "app", "x" * 1000, None, {"key": "y" * 500}, RESOURCE)
    buffer = LogBuffer(max_logs=1000, max_logs_per_sender=1000, max_bytes=40_000)
    for number in range(100):
        buffer.add(f"sender-{number}", f"key-{number % 50}", record)
    assert 5 <= len(buffer) <= 25
    assert buffer.take_dropped() == 100 - len(buffer)
    assert buffer.take_dropped() == 0
    kept = [found for number in range(50) for found in buffer.remove_waiting(f"key-{number}")]
    assert [sender for sender, _ in kept] == [f"sender-{number}" for number in range(100 - len(kept), 100)]
    assert all(not found.resource for _, found in kept)
    assert (len(buffer), buffer._bytes, buffer._by_key, buffer._by_sender) == (0, 0, {}, {})


def test_log_records_create_no_senders(journal: SqliteJournal, fake_time: FakeTime) -> None:
    """Services that only log do not replace the processes with progress."""
    receiver = Receiver(journal, wall=fake_time.read_now, limits=ReceiverLimits(senders=1))
    send(receiver, report(make_song()))
    for number in range(20):
        send(receiver, make_log(f"log {number}"), resource={"service.instance.id": f"service-{number}"})
        send(receiver, make_log("no trace", trace_id=None), resource={"service.instance.id": "other"})
    send(receiver, report(make_song(sequence=2, clock=2.0), at=2.0))
    assert list(receiver._senders) == [INSTANCE.id]
    assert len(journal.logs("friday-42")) == 20


def test_log_records_of_other_services_are_no_heartbeat(journal: SqliteJournal, fake_time: FakeTime) -> None:
    """A silent process is not reporting, although other processes log in its trace."""
    receiver = Receiver(journal, wall=fake_time.read_now)
    send(receiver, report(make_root(clock=60.0), at=60.0))
    fake_time.pass_(600.0)
    send(receiver, make_log("late", at=650.0), resource=SHIPPER)
    (operation,) = journal.active()
    assert operation.not_reporting_since is not None
    send(receiver, make_log("alive", at=660.0))
    (operation,) = journal.active()
    assert operation.not_reporting_since is None


def test_other_handlers_of_a_process_that_exports_its_log_records_are_ignored(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """OpenTelemetry's handler of logging exports the same records with the trace only."""
    own = build_log_event(
        LogRecord("friday-42", "setlist", "run-1", "song:1", 1, WALL + 1.0, 25, "NOTICE", "mixer", "once")
    )
    send(receiver, report(make_root()), own, make_log("once", at=1.001))
    assert read(journal) == [("song:1", "once")]
    (record,) = journal.logs("friday-42")
    assert (record.severity, record.severity_text, dict(record.attributes)) == (25, "NOTICE", {})


def test_log_records_of_a_process_that_writes_to_the_journal_are_ignored(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """It has written them itself."""
    record = LogRecord("friday-42", "setlist", "run-1", "", 1, WALL + 1.0, 20, "INFO", "mixer", "once")
    journal.write(ChangeSet(INSTANCE, WALL, 0.0, (make_root(),), logs=(record,)))
    for _ in range(2):
        send(receiver, report(make_root()), build_log_event(record), make_log("plain", span_id=CHILD_SPAN))
    assert read(journal) == [("", "once")]


class FailingJournal:
    """A sink in front of a journal that fails while ``is_broken``."""

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal
        self.is_broken = False

    def write(self, change_set: ChangeSet) -> None:
        """Write to the journal, or raise."""
        if self.is_broken:
            msg = "the disk is full"
            raise JournalError(msg)
        self._journal.write(change_set)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def test_log_records_are_stored_once_after_an_outage_of_the_journal(
    journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The sender repeats its request. In a long outage the oldest are dropped."""
    sink = FailingJournal(journal)
    receiver = Receiver(sink, wall=fake_time.read_now, limits=ReceiverLimits(unstored_logs=5))
    send(receiver, report(make_root()))
    sink.is_broken = True
    for _ in range(2):
        with pytest.raises(JournalError):
            send(receiver, make_log("once"), make_log("twice"))
    with pytest.raises(JournalError):
        send(receiver, *[make_log(f"more {number}", at=2.0) for number in range(4)])
    sink.is_broken = False
    receipt = send(receiver, make_log("last", at=3.0))
    assert receipt.dropped == 2
    assert [message for _, message in read(journal)] == [*(f"more {number}" for number in range(4)), "last"]
    sink.is_broken = True
    with pytest.raises(JournalError):
        send(receiver, make_log("repeated", at=4.0))
    sink.is_broken = False
    send(receiver, make_log("repeated", at=4.0))
    assert read(journal)[-1] == ("", "repeated")


def test_texts_and_attributes_of_log_records_are_limited(receiver: Receiver, journal: SqliteJournal) -> None:
    """As those of our own records, in both encodings."""
    attributes: dict[str, Any] = {f"key {number}": "x" * 5_000 for number in range(100)}
    attributes |= {"exception.stacktrace": "y" * 50_000 + "end", "parts": ("z" * 5_000,) * 3}
    long = make_log("m" * 50_000, severity_text="S" * 500, scope="l" * 5_000, attributes=attributes)
    send(receiver, report(make_root()))
    for build, encoding in BUILDERS:
        assert receiver.receive_logs(build([long]), encoding).rejected == 0
        assert len(journal.logs("friday-42")) == 1  # both encodings give one record
        (record,) = journal.logs("friday-42")
        assert (len(record.message), len(record.severity_text), len(record.logger)) == (1_024, 32, 256)
        assert record.details is not None
        assert (len(record.details), record.details[-4:]) == (8_192, "yend")
        assert len(record.attributes) == 32
        assert {len(str(value)) for value in record.attributes.values()} == {1_024}


def test_structured_bodies_become_json() -> None:
    """Both encodings agree, and deep values are null."""
    deep: dict[str, Any] = {"stringValue": "bottom"}
    for _ in range(20):
        deep = {"arrayValue": {"values": [deep]}}
    body = {
        "kvlistValue": {
            "values": [
                {"key": "user", "value": {"stringValue": "ada"}},
                {
                    "key": "sizes",
                    "value": {"arrayValue": {"values": [{"intValue": "3"}, {"doubleValue": 0.5}]}},
                },
                {"key": "ok", "value": {"boolValue": True}},
                {"key": "none", "value": {}},
                {"key": "deep", "value": deep},
            ]
        }
    }
    bodies: list[object] = [body, {"intValue": "7"}, {}, None, {"bytesValue": "aGVsbG8="}]
    records = [
        {"timeUnixNano": str(round(WALL * 1e9) + number), "traceId": TRACE, "spanId": SPAN, "body": found}
        for number, found in enumerate(bodies)
    ]
    document = {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}
    decoded = json_encoding.decode_logs(json.dumps(document).encode(), WALL + 60.0)
    texts = [record.body for record in decoded.records if isinstance(record, ReceivedLog)]
    assert texts[1:] == ["7", "", "", "aGVsbG8="]
    content = json.loads(texts[0])
    assert content.pop("deep") == [[[[[[[None]]]]]]]
    assert content == {"user": "ada", "sizes": [3, 0.5], "ok": True, "none": None}
    request = ExportLogsServiceRequest()
    for found in bodies:
        record = request.resource_logs.add().scope_logs.add().log_records.add()
        record.trace_id = bytes.fromhex(TRACE)
        if isinstance(found, dict):
            set_body(record.body, found)
    again = protobuf.decode_logs(request.SerializeToString(), WALL + 60.0)
    assert [record.body for record in again.records if isinstance(record, ReceivedLog)] == texts


def set_body(target: Any, value: Mapping[str, Any]) -> None:
    """Set an AnyValue of protobuf from one of JSON."""
    from google.protobuf.json_format import ParseDict

    ParseDict(value, target)


def test_severity_becomes_one_that_is_exported_as_the_same_number(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """The names are those of logging."""
    send(receiver, report(make_root()), *[make_log(str(number), severity=number) for number in range(1, 25)])
    names = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    stored = journal.logs("friday-42")
    assert [to_severity_number(record.severity) for record in stored] == list(range(1, 25))
    assert [record.severity_text for record in stored] == [names[number // 4] for number in range(24)]


def test_severity_without_a_number_is_that_of_its_text(receiver: Receiver, journal: SqliteJournal) -> None:
    """Without both it is INFO. Senders of JSON write numbers in several ways."""
    cases: list[tuple[str, object, int, str]] = [
        ("warn", 0, 30, "warn"),
        ("FATAL", 0, 50, "FATAL"),
        ("", 0, 20, "INFO"),
        ("notice", None, 20, "notice"),
        ("", 99, 20, "INFO"),
        ("", -1, 20, "INFO"),
        ("", "SEVERITY_NUMBER_ERROR2", 43, "ERROR"),
        ("", "17", 40, "ERROR"),
        ("", {}, 20, "INFO"),
    ]
    send(receiver, report(make_root()))
    records = [
        {"traceId": TRACE, "spanId": SPAN, "severityText": text, "severityNumber": number}
        for text, number, _, _ in cases
    ]
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()
    assert receiver.receive_logs(body, "json").rejected == 0
    stored = [(record.severity, record.severity_text) for record in journal.logs("friday-42")]
    assert stored == [(severity, name) for _, _, severity, name in cases]


def test_active_redaction_of_the_process_applies_to_received_log_records(
    receiver: Receiver, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function of the application is called with the key of log records."""
    monkeypatch.setattr(
        redaction.redactor_slot, "current", redaction.Redactor(lambda key, text: f"{key}:{text.upper()}")
    )
    send(receiver, report(make_root()), make_log("customer-7"))
    assert read(journal) == [("", "log:CUSTOMER-7")]


def test_late_log_record_of_an_ended_run_is_not_in_the_next_run(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """They belong to the run of their span, not to the next run."""
    send(receiver, report(make_root()), report(ended(make_root(), 2.0), FINISHED, 2.0))
    again = make_root(run="run-2", trace_id="e" * 32, started=5.0, clock=5.0)
    send(receiver, report(again, STARTED, 5.0), make_log("of the first run"))
    assert read(journal) == []
    assert [operation.run for operation in journal.active()] == ["run-2"]
    assert journal.history()[0].status is Status.COMPLETED
