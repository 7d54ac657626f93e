"""Receiver: received events in a real journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_progress import semconv
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.model import Failure, LevelSnapshot, Outcome, Status
from otel_progress.operations import Condition, Event
from otel_progress.otlp.event_codec import build_heartbeat, build_item_event, build_level_event
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.processes import OTLP_TIMEOUT_S
from otel_progress.protocols import ChangeSet
from otel_progress.receivers.receiver import Receiver, ReceiverLimits
from tests.support.fake_time import FakeTime
from tests.support.otlp_records import WALL, ended, level, make_change_set
from tests.support.otlp_requests import build_json_request, build_protobuf_request

STARTED, UPDATED, FINISHED = semconv.EVENT_STARTED, semconv.EVENT_UPDATED, semconv.EVENT_FINISHED


class UnreliableJournal:
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


def test_receiver_stores_operations_with_levels_items_and_ends(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """A reader of the journal shows them like those of any process."""
    song = level("song:1", started=1.0, clock=2.0, sequence=2, current=4, ratio=0.4)
    item = Event(
        "friday-42", "setlist", "run-1", "song:1", "song", semconv.EVENT_ITEM, 1, WALL + 2.0, "x.wav"
    )
    events = [
        build_level_event(STARTED, level(), WALL),
        build_level_event(UPDATED, song, WALL + 2.0),
        build_item_event(item, song.info),
    ]
    assert receiver.receive_logs(build_protobuf_request(events), "protobuf").rejected == 0
    operation = journal.get("friday-42")
    assert operation is not None
    assert (operation.run, operation.condition, operation.name) == ("run-1", Condition.OK, "the friday-42")
    assert [(found.path, found.current, found.ratio) for found in operation.levels] == [("song:1", 4, 0.4)]
    assert [event.name for event in journal.events("friday-42")] == ["x.wav"]
    failed = ended(level(sequence=5), 9.0, Status.FAILED, error=Failure("OSError", "gone"))
    receiver.receive_logs(build_json_request([build_level_event(FINISHED, failed, WALL + 9.0)]), "json")
    (done,) = journal.history()
    assert (done.status, done.error, done.root.duration_s) == (Status.FAILED, Failure("OSError", "gone"), 9.0)


def test_repeated_request_changes_nothing(receiver: Receiver, journal: SqliteJournal) -> None:
    """A sender repeats a request whose answer it did not receive."""
    item = Event(
        "friday-42", "setlist", "run-1", "", "setlist", semconv.EVENT_ITEM, 1, WALL, "x", Outcome.FAILED
    )
    events = [build_item_event(item, level().info), build_level_event(UPDATED, level(current=3), WALL)]
    for _ in range(2):
        receiver.receive_logs(build_protobuf_request(events), "protobuf")
    assert len(journal.events("friday-42")) == 1
    operation = journal.get("friday-42")
    assert operation is not None
    assert operation.root.current == 3


def test_changes_are_stored_with_the_next_request_after_an_error(
    journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The sender receives the error, and may never repeat the request."""
    sink = UnreliableJournal(journal)
    receiver = Receiver(sink, wall=fake_time.read_now)
    sink.is_broken = True
    with pytest.raises(JournalError):
        receiver.receive_logs(
            build_protobuf_request([build_level_event(UPDATED, level(current=3), WALL)]), "protobuf"
        )
    sink.is_broken = False
    heartbeat = build_heartbeat(make_change_set(1.0), 1)
    receiver.receive_logs(build_protobuf_request([heartbeat]), "protobuf")
    operation = journal.get("friday-42")
    assert operation is not None
    assert operation.root.current == 3


def test_sender_with_heartbeats_becomes_abandoned(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """Another sender never does, because its silence does not show that it is dead."""
    heartbeat = build_heartbeat(make_change_set(1.0), 1)
    receiver.receive_logs(
        build_protobuf_request([build_level_event(UPDATED, level(), WALL), heartbeat]), "protobuf"
    )
    silent = level(operation_id="clip-7", run="run-2")
    resource = {"service.name": "encoder", "service.instance.id": "encoder-1"}
    receiver.receive_logs(
        build_protobuf_request([build_level_event(UPDATED, silent, WALL)], resource), "protobuf"
    )
    fake_time.pass_(OTLP_TIMEOUT_S + 1.0)
    conditions = {operation.operation_id: operation.alive for operation in journal.active()}
    assert conditions == {"friday-42": False, "clip-7": True}


def test_sender_without_runs_starts_an_operation_again(receiver: Receiver, journal: SqliteJournal) -> None:
    """A start after the end is a new run. Without sequence numbers the time decides."""
    for at, name, status in (
        (0.0, STARTED, "running"),
        (1.0, UPDATED, "running"),
        (2.0, FINISHED, "completed"),
        (1.5, UPDATED, "running"),
        (3.0, STARTED, "running"),
        (4.0, UPDATED, "running"),
    ):
        attributes = {semconv.OPERATION_ID: "clip-7", semconv.STATUS: status, semconv.CURRENT: int(at * 10)}
        event = LogEvent(name, "", WALL + at, None, None, attributes)
        assert receiver.receive_logs(build_json_request([event]), "json").rejected == 0
    (first,) = journal.history()
    (second,) = journal.active()
    assert (first.root.current, second.root.current) == (20, 40)
    assert first.root.info.started_at == pytest.approx(WALL)
    assert second.root.info.started_at == pytest.approx(WALL + 3.0)


def test_repeated_end_of_an_earlier_run_does_not_end_the_next(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """Senders without runs and sequence numbers repeat requests, too."""

    def send(at: float, name: str, current: int) -> None:
        attributes = {semconv.OPERATION_ID: "clip-7", semconv.CURRENT: current}
        event = LogEvent(name, "", WALL + at, None, None, attributes)
        assert receiver.receive_logs(build_json_request([event]), "json").rejected == 0

    send(0.0, STARTED, 0)
    send(2.0, FINISHED, 20)
    send(3.0, STARTED, 0)
    send(4.0, UPDATED, 40)
    send(2.0, FINISHED, 20)
    send(1.0, UPDATED, 10)
    send(0.0, STARTED, 0)
    (first,) = journal.history()
    (second,) = journal.active()
    assert (first.root.current, second.root.current) == (20, 40)
    assert second.root.info.started_at == pytest.approx(WALL + 3.0)


def test_counted_start_in_the_moment_of_the_end_is_a_new_run(
    receiver: Receiver, journal: SqliteJournal
) -> None:
    """Some clocks have milliseconds only."""
    for sequence, name in enumerate((STARTED, FINISHED, STARTED, UPDATED, STARTED), 1):
        number = 3 if sequence == 5 else sequence  # the last one is repeated
        attributes = {semconv.OPERATION_ID: "clip-7", semconv.SEQUENCE: number}
        event = LogEvent(name, "", WALL, None, None, attributes)
        receiver.receive_logs(build_json_request([event]), "json")
    assert (len(journal.history()), len(journal.active())) == (1, 1)


def test_texts_and_keys_are_limited(receiver: Receiver, journal: SqliteJournal) -> None:
    """In both encodings, also of an error."""
    long = "x" * 50_000
    attributes = {semconv.OPERATION_ID: "clip-7", semconv.MESSAGE: long, "exception.message": long}
    attributes |= {f"progress.metadata.{long}": 1, "progress.metadata.note": long}
    attributes |= {f"progress.metadata.k{number}": number for number in range(100)}
    for build, encoding in ((build_json_request, "json"), (build_protobuf_request, "protobuf")):
        event = LogEvent(UPDATED, "", WALL, None, None, attributes)
        assert receiver.receive_logs(build([event]), encoding).rejected == 0  # type: ignore[arg-type]
        operation = journal.get("clip-7")
        assert operation is not None
        assert operation.error is not None
        assert operation.message is not None
        texts = (operation.message, operation.error.message, operation.metadata["note"])
        assert [len(str(text)) for text in texts] == [1_024] * 3
        assert len(operation.metadata) == 64


def test_secrets_of_other_programs_are_redacted(receiver: Receiver, journal: SqliteJournal) -> None:
    """In names, messages, metadata, errors and items."""
    secret = "password=hunter2"
    values = {
        semconv.OPERATION_ID: "clip-7",
        semconv.OPERATION_NAME: f"clip {secret}",
        semconv.MESSAGE: f"login with {secret}",
        "exception.message": f"refused: {secret}",
        "progress.metadata.token": "abc",
        "progress.metadata.size": 3,
    }
    item = {semconv.OPERATION_ID: "clip-7", semconv.ITEM_NAME: secret, "exception.message": secret}
    events = [
        LogEvent(UPDATED, "", WALL, None, None, values),
        LogEvent(semconv.EVENT_ITEM, "", WALL, None, None, item),
    ]
    assert receiver.receive_logs(build_json_request(events), "json").rejected == 0
    operation = journal.get("clip-7")
    assert operation is not None
    assert (operation.name, operation.message) == (
        "clip password=[redacted]",
        "login with password=[redacted]",
    )
    assert operation.error == Failure("Error", "refused: password=[redacted]")
    assert operation.metadata == {"token": "[redacted]", "size": 3}
    (stored,) = journal.events("clip-7")
    assert (stored.name, stored.error) == ("password=[redacted]", Failure("Error", "password=[redacted]"))


def test_receiver_after_a_restart_continues_stored_runs(journal: SqliteJournal, fake_time: FakeTime) -> None:
    """The end of a run that started before the restart is stored."""
    events = [build_level_event(UPDATED, make_root(number), WALL + number) for number in (4, 3, 2)]
    Receiver(journal, wall=fake_time.read_now).receive_logs(build_protobuf_request(events), "protobuf")
    end = build_level_event(FINISHED, ended(level(sequence=3), 9.0), WALL + 9.0)
    Receiver(journal, wall=fake_time.read_now).receive_logs(build_protobuf_request([end]), "protobuf")
    assert [done.status for done in journal.history()] == [Status.COMPLETED]


def make_root(number: int) -> LevelSnapshot:
    """Return the operation at a sequence number, with a count that does not change."""
    return level(sequence=number, clock=float(number), current=5)


def test_invalid_and_excess_records_are_rejected_and_the_others_stored(
    journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The receipt has the number and the first reason."""
    receiver = Receiver(journal, wall=fake_time.read_now, limits=ReceiverLimits(runs_per_sender=1))
    events = [
        build_level_event(UPDATED, level(), WALL),
        build_level_event(UPDATED, level(run="run-2", operation_id="other"), WALL),
        LogEvent(UPDATED, "", WALL, None, None, {}),
    ]
    receipt = receiver.receive_logs(build_protobuf_request(events), "protobuf")
    assert (receipt.rejected, receipt.reason) == (2, "a sender has at most 1 operations that have not ended")
    assert [operation.operation_id for operation in journal.active()] == ["friday-42"]


def test_example_of_curl_is_stored(receiver: Receiver, journal: SqliteJournal) -> None:
    """Only documented attributes are used."""
    records = [
        {"timeUnixNano": "1800000000000000000", "eventName": name, "attributes": _attributes(current, status)}
        for name, current, status in (
            (STARTED, 0, "running"),
            (UPDATED, 80, "running"),
            (FINISHED, 240, "completed"),
        )
    ]
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()
    assert receiver.receive_logs(body, "json").rejected == 0
    (done,) = journal.history()
    assert (done.operation_id, done.root.current, done.root.total, done.ratio) == ("clip-7", 240, 240, 1.0)


def _attributes(current: int, status: str) -> list[dict[str, object]]:
    values = {semconv.OPERATION_ID: "clip-7", semconv.STATUS: status}
    texts: list[dict[str, object]] = [
        {"key": key, "value": {"stringValue": text}} for key, text in values.items()
    ]
    numbers = {semconv.CURRENT: current, semconv.TOTAL: 240}
    return texts + [{"key": key, "value": {"intValue": number}} for key, number in numbers.items()]
