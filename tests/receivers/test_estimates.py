"""Estimates, batch and parent of received operations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.model import ParentLink, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.processes import host_class
from otel_progress.protocols import BatchQuery
from otel_progress.receivers import estimates
from otel_progress.receivers.estimates import ReceivedEstimates
from otel_progress.receivers.receiver import Receiver
from otel_progress.records import TrajectoryKey
from tests.support.fake_time import FakeTime
from tests.support.otlp_records import SPAN, TRACE, WALL, ended, level
from tests.support.otlp_requests import build_protobuf_request, build_span_request

STARTED, UPDATED, FINISHED = semconv.EVENT_STARTED, semconv.EVENT_UPDATED, semconv.EVENT_FINISHED


@pytest.fixture
def fake_time() -> FakeTime:
    """Clocks of the journal."""
    return FakeTime(WALL)


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


def build_update(seconds: float, ratio: float, sequence: int, run: str = "run-1") -> LogEvent:
    """Return the update of an operation ``seconds`` after its start."""
    update = level(
        clock=seconds, sequence=sequence, current=round(100 * ratio), total=100, ratio=ratio, run=run
    )
    return build_level_event(UPDATED, update, WALL + seconds)


def receive(receiver: Receiver, *events: LogEvent) -> None:
    """Receive events in one request."""
    assert receiver.receive_logs(build_protobuf_request(events), "protobuf").rejected == 0


def read(journal: SqliteJournal) -> OperationSnapshot:
    """Return the received operation."""
    found = journal.get("friday-42")
    assert found is not None
    return found


def test_running_operation_has_an_estimate_from_its_rate(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """At a constant rate it is exact, and it counts down between reports."""
    receive(receiver, build_level_event(STARTED, level(), WALL))
    assert read(journal).eta is None
    for number in range(1, 6):
        fake_time.pass_(10.0)
        receive(receiver, build_update(10.0 * number, 0.1 * number, number))
    eta = read(journal).eta
    assert eta is not None
    assert eta.remaining_s == pytest.approx(50.0)
    assert read(journal).remaining_seconds == pytest.approx(50.0)
    fake_time.pass_(4.0)
    assert read(journal).remaining_seconds == pytest.approx(46.0)


def test_estimate_uses_the_history_of_received_runs(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """Runs are slow at their end, which the rate of a run does not show."""
    for run in range(4):
        start = fake_time.now - WALL
        for number, (seconds, ratio) in enumerate([(10.0, 0.3), (20.0, 0.6), (30.0, 0.9)], 1):
            fake_time.pass_(10.0)
            update = level(
                started=start,
                clock=start + seconds,
                sequence=number,
                run=f"run-{run}",
                ratio=ratio,
                total=100,
            )
            receive(receiver, build_level_event(UPDATED, update, fake_time.now))
        fake_time.pass_(70.0)
        end = ended(update, start + 100.0, sequence=9, current=100, ratio=1.0)
        receive(receiver, build_level_event(FINISHED, end, fake_time.now))
    history = journal.trajectories(TrajectoryKey("setlist", "", host_class(), "service=nightly"))
    assert [past.duration_s for past in history] == pytest.approx([100.0] * 4)
    start = fake_time.now - WALL
    fake_time.pass_(30.0)
    update = level(started=start, clock=start + 30.0, sequence=1, run="run-9", ratio=0.9, total=100)
    receive(receiver, build_level_event(UPDATED, update, fake_time.now))
    eta = read(journal).eta
    assert eta is not None
    assert (eta.basis, eta.runs) == ("history", 4)
    assert eta.remaining_s == pytest.approx(70.0, rel=0.2)


def test_failed_and_ended_operations_have_no_estimate_and_leave_no_history(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """Only completed runs are comparable."""
    fake_time.pass_(20.0)
    receive(receiver, build_update(10.0, 0.4, 1), build_update(20.0, 0.5, 2))
    failed = ended(level(sequence=3, total=100), 21.0, Status.FAILED)
    receive(receiver, build_level_event(FINISHED, failed, WALL + 21.0))
    assert read(journal).eta is None
    assert journal.trajectories(TrajectoryKey("setlist", "", host_class(), "service=nightly")) == []


def test_estimates_are_limited_per_request_and_in_memory() -> None:
    """Further operations keep their estimate, and the oldest ones are dropped."""
    found = ReceivedEstimates(None, max_runs=300)
    for at in (10.0, 20.0):
        found.start_request()
        for number in range(200):
            found.update(f"run-{number}", "load", "web", 0.0, at, at / 100.0)
    made = [number for number in range(200) if found.get(f"run-{number}") is not None]
    assert len(made) == estimates.MAX_ESTIMATES_PER_REQUEST
    for number in range(200, 500):
        found.update(f"run-{number}", "load", "web", 0.0, 20.0, 0.2)
    assert [found.get(f"run-{number}") for number in made] == [None] * len(made)


@pytest.mark.parametrize("seed", range(6))
def test_batch_and_parent_are_received_in_any_order(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime, seed: int
) -> None:
    """The state does not depend on the order of arrival."""
    link = ParentLink("nightly-7", "run-0", "host:alpha")
    linked = {"batch": "friday", "parent": link}
    events = [
        build_level_event(STARTED, level(**linked), WALL),
        build_level_event(UPDATED, level(clock=1.0, sequence=2, current=3, **linked), WALL + 1.0),
        build_level_event(STARTED, level("song:1", started=1.0, clock=1.0, sequence=2), WALL + 1.0),
    ]
    assert events[0].attributes[semconv.BATCH_ID] == "friday"
    assert events[0].attributes[semconv.PARENT] == "1;run-0;nightly-7;host:alpha"
    assert semconv.BATCH_ID not in events[2].attributes
    fake_time.pass_(5.0)
    shuffled = [*events, *events]
    random.Random(seed).shuffle(shuffled)
    for event in shuffled:
        receive(receiver, event)
    info = read(journal).root.info
    assert (info.batch, info.parent) == ("friday", link)
    (batch,) = journal.batches(BatchQuery())
    assert (batch.id, batch.counts[Status.RUNNING]) == ("friday", 1)


def test_batch_that_only_the_start_states_is_kept(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The start of another tool may arrive after its updates."""
    fake_time.pass_(5.0)
    receive(receiver, build_level_event(UPDATED, level(clock=1.0, sequence=2, current=3), WALL + 1.0))
    assert read(journal).root.info.batch is None
    receive(receiver, build_level_event(STARTED, level(batch="friday"), WALL))
    assert (read(journal).root.info.batch, read(journal).root.current) == ("friday", 3)
    batch = journal.batch("friday")
    assert batch is not None


@pytest.mark.parametrize("text", ["", "1;;", "2;run;id;", "nonsense", "1;" + "r" * 100 + ";id;"])
def test_invalid_parent_is_ignored(receiver: Receiver, journal: SqliteJournal, text: str) -> None:
    """The operation itself is stored."""
    event = build_level_event(STARTED, level(), WALL)
    changed = replace(event, attributes={**event.attributes, semconv.PARENT: text, semconv.BATCH_ID: 7})
    receive(receiver, changed)
    assert (read(journal).root.info.parent, read(journal).root.info.batch) == (None, "7")


def test_paused_operation_has_no_estimate_and_no_rate(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The pause does not count, neither for the estimate after it nor for the history."""
    receive(receiver, build_level_event(STARTED, level(), WALL))
    fake_time.pass_(10.0)
    receive(receiver, build_update(10.0, 0.2, 1))
    assert read(journal).remaining_seconds == pytest.approx(40.0)
    paused = level(clock=10.0, sequence=2, current=20, total=100, ratio=0.2, paused_clock=10.0)
    receive(receiver, build_level_event(UPDATED, paused, WALL + 10.0))
    for _ in range(2):
        operation = read(journal)
        assert (operation.condition, operation.eta, operation.remaining_seconds) == ("paused", None, None)
        assert operation.rate_seconds_of(operation.root) == 0.0
        fake_time.pass_(40.0)
    at = fake_time.now - WALL
    resumed = level(clock=at, sequence=3, current=20, total=100, ratio=0.2, paused_s=at - 10.0)
    receive(receiver, build_level_event(UPDATED, resumed, fake_time.now))
    operation = read(journal)
    assert (operation.condition, operation.active_seconds_of(operation.root)) == ("ok", pytest.approx(10.0))
    assert operation.remaining_seconds == pytest.approx(40.0)
    end = ended(resumed, at + 40.0, current=100, ratio=1.0)
    fake_time.pass_(40.0)
    receive(receiver, build_level_event(FINISHED, end, fake_time.now))
    (past,) = journal.trajectories(TrajectoryKey("setlist", "", host_class(), "service=nightly"))
    assert past.duration_s == pytest.approx(50.0)


def test_pause_of_another_program_is_shown(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """Only documented attributes are used. Without the attribute the pause has ended."""
    fake_time.pass_(30.0)
    values = {semconv.OPERATION_ID: "friday-42", semconv.CURRENT: 2, semconv.TOTAL: 4}
    pauses: list[dict[str, object]] = [
        {semconv.PAUSE_START_TIME: WALL + 20.0},
        {semconv.PAUSE_DURATION: 5},
        {semconv.PAUSE_START_TIME: WALL + 20.0, semconv.STATUS: "completed"},
    ]
    conditions = []
    for number, pause in enumerate(pauses):
        name = FINISHED if semconv.STATUS in pause else UPDATED
        receive(receiver, LogEvent(name, "", WALL + 20.0 + number, None, None, {**values, **pause}))
        conditions.append((read(journal).condition, read(journal).is_paused, read(journal).root.paused_s))
    assert conditions == [("paused", True, 0.0), ("ok", False, 5.0), ("ok", False, 0.0)]
    invalid = {**values, semconv.PAUSE_START_TIME: "now"}
    event = LogEvent(UPDATED, "", WALL + 25.0, None, None, invalid)
    assert receiver.receive_logs(build_protobuf_request([event]), "protobuf").rejected == 1


def test_span_ends_a_paused_operation(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """The end event is lost. The rest of the pause counts as paused."""
    fake_time.pass_(30.0)
    paused = level(clock=9.0, sequence=2, current=5, paused_clock=5.0, paused_s=1.0)
    receive(receiver, build_level_event(UPDATED, paused, WALL + 9.0))
    span = {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "setlist",
        "startTimeUnixNano": str(round(WALL * 1e9)),
        "endTimeUnixNano": str(round((WALL + 20.0) * 1e9)),
        "attributes": {semconv.OPERATION_ID: "friday-42", semconv.PATH: "", semconv.SEQUENCE: 3},
    }
    assert receiver.receive_spans(build_span_request(span), "json").rejected == 0
    operation = read(journal)
    assert (operation.status, operation.is_paused) == (Status.COMPLETED, False)
    assert operation.root.paused_s == pytest.approx(16.0)
