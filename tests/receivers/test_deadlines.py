"""Deadlines and stall limits of received operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.operations import Condition
from otel_progress.otlp.event_codec import build_heartbeat, build_level_event
from otel_progress.receivers.receiver import Receiver
from tests.support.fake_time import FakeTime
from tests.support.otlp_records import WALL, level, make_change_set
from tests.support.otlp_requests import build_json_request, build_protobuf_request


@pytest.fixture
def fake_time() -> FakeTime:
    """Clocks of the journal."""
    return FakeTime(WALL + 5.0)


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


def get_condition(journal: SqliteJournal) -> Condition:
    """Return the condition of the received operation."""
    found = journal.get("friday-42")
    assert found is not None
    return found.condition


@pytest.mark.parametrize("encode", [build_protobuf_request, build_json_request])
def test_received_operation_after_its_deadline_is_overdue(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime, encode: object
) -> None:
    """The deadline is the one that the program has set."""
    snapshot = level(deadline_at=WALL + 30.0)
    event = build_level_event(semconv.EVENT_UPDATED, snapshot, WALL)
    kind = "protobuf" if encode is build_protobuf_request else "json"
    assert receiver.receive_logs(encode([event]), kind).rejected == 0  # type: ignore[operator]
    assert get_condition(journal) is Condition.OK
    fake_time.pass_(31.0)
    assert get_condition(journal) is Condition.OVERDUE


def test_received_operation_is_stalled_after_the_limit_of_its_program(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The limit may be longer than the one of the receiver."""
    event = build_level_event(semconv.EVENT_UPDATED, level(stall_after_s=300.0), WALL)
    receiver.receive_logs(build_protobuf_request([event]), "protobuf")
    for elapsed_s, condition in ((200.0, Condition.OK), (400.0, Condition.STALLED)):
        fake_time.pass_(200.0)
        heartbeat = build_heartbeat(make_change_set(elapsed_s), 1)
        receiver.receive_logs(build_protobuf_request([heartbeat]), "protobuf")
        assert get_condition(journal) is condition
    found = journal.get("friday-42")
    assert found is not None
    assert found.root.stall_after_s == 300.0


@pytest.mark.parametrize("name", [semconv.DEADLINE, semconv.STALL_AFTER])
@pytest.mark.parametrize("value", [-1.0, "soon", True])
def test_event_with_an_invalid_limit_is_rejected(
    receiver: Receiver, journal: SqliteJournal, name: str, value: object
) -> None:
    """The operation does not change."""
    event = build_level_event(semconv.EVENT_UPDATED, level(), WALL)
    event.attributes[name] = value  # type: ignore[index]
    assert receiver.receive_logs(build_protobuf_request([event]), "protobuf").rejected == 1
    assert journal.get("friday-42") is None
