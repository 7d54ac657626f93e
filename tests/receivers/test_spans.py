"""Spans of other tools, ended spans of our helpers, and silent senders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_progress import semconv
from otel_progress.codec import decode_operation, encode_operation
from otel_progress.console.rows import format_condition
from otel_progress.journal import SqliteJournal
from otel_progress.model import Failure, Outcome, Status
from otel_progress.operations import Condition, Event, OperationSnapshot
from otel_progress.otlp.event_codec import build_heartbeat, build_item_event, build_level_event
from otel_progress.processes import OTLP_TIMEOUT_S, UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import ChangeSet
from otel_progress.receivers.receiver import Receiver, ReceiverLimits
from otel_progress.settings.defaults import DEFAULT_RETENTION_S
from tests.support.fake_time import FakeTime
from tests.support.otlp_records import INSTANCE, SPAN, WALL, ended, level, make_change_set, make_span
from tests.support.otlp_requests import RESOURCE, build_protobuf_request, build_span_request

CHILD = "00f067aa0ba902b7"
PLACEHOLDER = "1111111111111111"
ERROR = {"code": 2, "message": "out of memory"}
STARTED, UPDATED, FINISHED = semconv.EVENT_STARTED, semconv.EVENT_UPDATED, semconv.EVENT_FINISHED


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


def send(receiver: Receiver, *spans: dict[str, Any]) -> int:
    """Send spans in one request. Return the number of rejected ones."""
    return receiver.receive_spans(build_span_request(*spans), "json").rejected


def describe(operation: OperationSnapshot | None) -> dict[str, tuple[object, ...]]:
    """Return name, status and end of all levels by path."""
    assert operation is not None
    return {
        found.path: (
            found.info.name,
            found.status.value,
            None if found.ended_at is None else round(found.ended_at - WALL, 3),
        )
        for found in (operation.root, *operation.levels)
    }


def test_running_spans_are_shown_and_end(receiver: Receiver, journal: SqliteJournal) -> None:
    """Live exporters send a running span without an end, and again when it ended."""
    child = make_span("pull", CHILD, 1.0, parentSpanId=SPAN, endTimeUnixNano="0")
    assert send(receiver, child, make_span("build image")) == 0
    assert describe(journal.get(SPAN)) == {
        "": ("build image", "running", None),
        f"pull:{CHILD}": ("pull", "running", None),
    }
    send(receiver, make_span("pull", CHILD, 1.0, 3.0, parentSpanId=SPAN, status=ERROR))
    send(receiver, make_span("build image", end=4.0))
    (done,) = journal.history()
    assert describe(journal.get(SPAN)) == {
        "": ("build image", "completed", 4.0),
        f"pull:{CHILD}": ("pull", "failed", 3.0),
    }
    assert done.root.duration_s == 4.0
    operation = journal.get(SPAN)
    assert operation is not None
    assert operation.levels[0].error == Failure("Error", "out of memory")


def test_ended_span_is_not_running_again(receiver: Receiver, journal: SqliteJournal) -> None:
    """A late or repeated request changes nothing."""
    running, done = make_span("build"), make_span("build", end=4.0)
    for spans in ((running,), (done,), (running,), (done,)):
        send(receiver, *spans)
    assert describe(journal.get(SPAN)) == {"": ("build", "completed", 4.0)}
    assert len(journal.history()) == 1


def test_ended_spans_without_progress_are_ignored(receiver: Receiver, journal: SqliteJournal) -> None:
    """They are the usual traffic of a Collector."""
    assert send(receiver, *[make_span("GET /", f"{number:016x}", end=1.0) for number in range(1, 50)]) == 0
    assert not journal.active()
    assert not journal.history()


def test_placeholders_of_logfire_are_running_spans(receiver: Receiver, journal: SqliteJournal) -> None:
    """The parent of a placeholder is the span that it describes."""
    pending = {"logfire.span_type": "pending_span", "progress.total": 20, "progress.current": 10}
    root = make_span(
        "train",
        PLACEHOLDER,
        end=0.0,
        parentSpanId=SPAN,
        attributes={**pending, "logfire.pending_parent_id": "0" * 16},
    )
    child = make_span(
        "epoch",
        "2" * 16,
        1.0,
        1.0,
        parentSpanId=CHILD,
        attributes={**pending, "logfire.pending_parent_id": SPAN},
    )
    send(receiver, root, child)
    assert set(describe(journal.get(SPAN))) == {"", f"epoch:{CHILD}"}
    operation = journal.get(SPAN)
    assert operation is not None
    assert (operation.root.status, operation.root.current, operation.ratio) == (Status.RUNNING, 10, 0.5)
    real = {"logfire.span_type": "span", "progress.total": 20, "progress.current": 20}
    send(receiver, make_span("train", end=9.0, attributes=real))
    (done,) = journal.history()
    assert (done.root.current, done.ratio, done.root.duration_s) == (20, 1.0, 9.0)


def test_span_with_progress_is_an_operation_with_its_attributes(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """Also if it is received only once, after its end."""
    attributes = {
        semconv.OPERATION_ID: "import-7",
        semconv.OPERATION_TYPE: "import",
        semconv.CURRENT: 250,
        semconv.TOTAL: 1000,
        semconv.MESSAGE: "stopped",
        "progress.metadata.table": "users",
    }
    send(receiver, make_span("import rows", end=2.0, attributes=attributes))
    (done,) = journal.history()
    assert (done.operation_id, done.operation_type, done.name) == ("import-7", "import", "import rows")
    assert (done.root.current, done.root.total, done.message) == (250, 1000, "stopped")
    assert dict(done.metadata) == {"table": "users"}


def test_invalid_and_excess_spans_are_rejected(journal: SqliteJournal, fake_time: FakeTime) -> None:
    """The others are stored."""
    limits = ReceiverLimits(spans_per_sender=2, levels=3)
    receiver = Receiver(journal, wall=fake_time.read_now, limits=limits)
    spans = [make_span("job", f"{number:016x}", start=number) for number in range(1, 5)]
    wrong = make_span("job", "a" * 16, attributes={semconv.CURRENT: "many"})
    assert send(receiver, *spans, wrong) == 3
    assert len(journal.active()) == 2
    send(receiver, make_span("job", f"{1:016x}", 1.0, 2.0))
    assert send(receiver, spans[2]) == 0
    assert send(receiver, make_span("more", "b" * 16, end=3.0, attributes={semconv.CURRENT: 1})) == 0
    assert len(journal.active()) == 2


def test_levels_of_all_senders_are_limited(journal: SqliteJournal, fake_time: FakeTime) -> None:
    """Ended runs are dropped first, because they only matter to late reports."""
    receiver = Receiver(journal, wall=fake_time.read_now, limits=ReceiverLimits(levels=2))
    for run in ("run-1", "run-2", "run-3"):
        end = build_level_event(FINISHED, ended(level(run=run, operation_id=run), 1.0), WALL + 1.0)
        assert receiver.receive_logs(build_protobuf_request([end]), "protobuf").rejected == 0
    assert len(journal.history()) == 3
    events = [
        build_level_event(STARTED, level(run=run, operation_id=run), WALL) for run in ("a", "b", "c", "a")
    ]
    receipt = receiver.receive_logs(build_protobuf_request(events), "protobuf")
    assert (receipt.rejected, receipt.reason) == (1, "the receiver has at most 2 levels")


def make_own_span(end: float, **attributes: Any) -> dict[str, Any]:
    """Return the ended span of the operation that our helpers write."""
    values = {
        semconv.OPERATION_ID: "friday-42",
        semconv.OPERATION_TYPE: "setlist",
        semconv.PATH: "",
        semconv.CURRENT: 10,
        semconv.TOTAL: 10,
        semconv.RATIO: 1.0,
        semconv.STATUS: "completed",
        semconv.SEQUENCE: 7,
        **attributes,
    }
    return make_span("setlist", end=end, attributes=values)


@pytest.mark.parametrize("is_span_first", [False, True])
def test_own_span_ends_an_operation_whose_end_was_lost(
    receiver: Receiver, journal: SqliteJournal, is_span_first: bool
) -> None:
    """A late update does not start it again, and the event itself still counts."""
    updated = build_level_event(UPDATED, level(current=4, sequence=6), WALL + 2.0)
    requests = [
        lambda: receiver.receive_logs(build_protobuf_request([updated]), "protobuf"),
        lambda: send(receiver, make_own_span(5.0)),
    ]
    for request in reversed(requests) if is_span_first else requests:
        request()
    (done,) = journal.history()
    assert (done.status, done.root.current, done.root.ended_at) == (Status.COMPLETED, 10, WALL + 5.0)
    late = build_level_event(UPDATED, level(current=9, sequence=8), WALL + 4.0)
    receiver.receive_logs(build_protobuf_request([late]), "protobuf")
    assert not journal.active()
    failed = ended(level(sequence=9), 5.0, Status.FAILED, error=Failure("OSError", "gone"))
    receiver.receive_logs(
        build_protobuf_request([build_level_event(FINISHED, failed, WALL + 5.0)]), "protobuf"
    )
    (done,) = journal.history()
    assert (done.status, done.error) == (Status.FAILED, Failure("OSError", "gone"))


def test_own_span_without_events_is_not_an_operation(receiver: Receiver, journal: SqliteJournal) -> None:
    """Its events describe it, with another run."""
    assert send(receiver, make_own_span(5.0)) == 0
    assert not journal.history()


def test_process_that_writes_to_the_journal_itself_is_not_received(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """Its own writes are complete, and have other sequence numbers and clocks."""
    instance = replace(INSTANCE, host="machine/boot/1")
    own = level(current=3, sequence=5)
    journal.write(ChangeSet(instance, WALL, 1.0, [own]))
    item = Event(
        "friday-42", "setlist", "run-1", "", "setlist", semconv.EVENT_ITEM, 1, WALL, "x", Outcome.FAILED
    )
    events = [
        build_level_event(UPDATED, replace(own, current=9, sequence=9), WALL),
        build_heartbeat(make_change_set(1.0), 1),
        build_item_event(item, own.info),
    ]
    assert receiver.receive_logs(build_protobuf_request(events), "protobuf").rejected == 0
    send(receiver, make_own_span(5.0))
    journal.write(ChangeSet(instance, WALL, 2.0, [replace(own, current=4, sequence=6)]))
    operation = journal.get("friday-42")
    assert operation is not None
    assert (operation.root.current, operation.status) == (4, Status.RUNNING)
    assert operation.instance == instance
    assert not journal.events("friday-42")


def test_silent_sender_without_heartbeats_is_not_reporting_and_never_abandoned(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """All views state since when. A report ends the condition."""
    now = fake_time.read_now()
    silent = level(operation_id="clip-7")
    resource = {"service.name": "encoder"}
    receiver.receive_logs(
        build_protobuf_request([build_level_event(UPDATED, silent, WALL)], resource), "protobuf"
    )
    changes = journal.watch(0.0)
    assert [found.condition for found in next(changes)] == [Condition.OK]
    fake_time.pass_(30 * 86_400.0)
    operation = journal.get("clip-7")
    assert operation is not None
    assert (operation.alive, operation.condition) == (True, Condition.NOT_REPORTING)
    assert operation.not_reporting_since == now
    (changed,) = next(changes)
    assert changed.condition is Condition.NOT_REPORTING
    note = format_condition(operation, operation.condition)
    assert note is not None
    assert note[0].startswith("not reporting since 20")
    document = encode_operation(operation)
    assert (document["condition"], document["not_reporting_since"]) == ("not_reporting", now)
    assert decode_operation(document) == operation
    later = build_level_event(UPDATED, replace(silent, current=5, sequence=2), fake_time.read_now())
    receiver.receive_logs(build_protobuf_request([later], resource), "protobuf")
    operation = journal.get("clip-7")
    assert operation is not None
    assert (operation.condition, operation.not_reporting_since) == (Condition.OK, None)


def test_operation_of_a_silent_sender_can_be_marked_as_failed(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """Ten minutes after its last report. Otherwise it would stay forever."""
    resource = {"service.name": "encoder"}
    event = build_level_event(UPDATED, level(operation_id="clip-7"), WALL)
    receiver.receive_logs(build_protobuf_request([event], resource), "protobuf")
    fake_time.pass_(OTLP_TIMEOUT_S + 1.0)
    operation = journal.get("clip-7")
    assert operation is not None
    assert operation.may_be_dead
    assert not journal.fail_abandoned("clip-7", "power failure")
    fake_time.pass_(UNVERIFIED_TIMEOUT_S)
    assert journal.fail_abandoned("clip-7", "power failure")
    (failed,) = journal.history()
    assert (failed.status, failed.not_reporting_since) == (Status.FAILED, None)


def test_operation_of_a_silent_sender_is_deleted_after_the_retention(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The journal does not grow without limit."""
    for number in range(2):
        event = build_level_event(UPDATED, level(operation_id=f"clip-{number}", run=f"r{number}"), WALL)
        resource = {"service.name": f"encoder-{number}"}
        receiver.receive_logs(build_protobuf_request([event], resource), "protobuf")
        fake_time.pass_(2 * DEFAULT_RETENTION_S)
    receiver.receive_logs(build_protobuf_request([build_level_event(UPDATED, level(), WALL)]), "protobuf")
    assert [operation.operation_id for operation in journal.active()] == ["friday-42"]


def test_sender_with_heartbeats_is_abandoned_instead(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """Its silence shows that it is dead."""
    events = [build_level_event(UPDATED, level(), WALL), build_heartbeat(make_change_set(1.0), 1)]
    receiver.receive_logs(build_protobuf_request(events, RESOURCE), "protobuf")
    fake_time.pass_(OTLP_TIMEOUT_S + 1.0)
    operation = journal.get("friday-42")
    assert operation is not None
    assert (operation.condition, operation.not_reporting_since) == (Condition.ABANDONED, None)
