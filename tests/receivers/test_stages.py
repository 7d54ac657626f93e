"""Declared stages of received operations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.receivers.receiver import Receiver
from tests.support.fake_time import FakeTime
from tests.support.otlp_records import WALL, ended, level
from tests.support.otlp_requests import build_json_request, build_protobuf_request

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


def read(journal: SqliteJournal, operation_id: str = "friday-42") -> OperationSnapshot:
    """Return the received operation."""
    found = journal.get(operation_id)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(4))
def test_declared_stages_are_shown_in_their_order_with_any_order_of_arrival(
    receiver: Receiver, journal: SqliteJournal, seed: int
) -> None:
    """A stage without a start has no duration, also after it was skipped."""
    declared: dict[str, Any] = {"declared": True, "sequence": 1, "total": None, "ratio": None}
    pending = [
        level(f"stage:{name}", started=None, status=Status.PENDING, order=order, weight=weight, **declared)
        for order, (name, weight) in enumerate((("load", 1), ("mix", 6.5), ("encode", 2)))
    ]
    load = level("stage:load", declared=True, order=0, sequence=3)
    mix = level(
        "stage:mix", declared=True, order=1, weight=6.5, started=4.0, sequence=6, current=5, ratio=0.5
    )
    skipped = ended(pending[2], 9.0, Status.SKIPPED, duration_s=None, ended_at=None, sequence=8)
    root = level(sequence=7, stage="mix", current=1, total=3, ratio=0.4, clock=8.0)
    events = [
        *(build_level_event(UPDATED, stage, WALL) for stage in pending),
        build_level_event(STARTED, load, WALL),
        build_level_event(FINISHED, ended(load, 4.0, sequence=5, current=10, ratio=1.0), WALL + 4.0),
        build_level_event(STARTED, mix, WALL + 4.0),
        build_level_event(UPDATED, mix, WALL + 8.0),
        build_level_event(UPDATED, root, WALL + 8.0),
    ]
    random.Random(seed).shuffle(events)
    for event in events:
        assert receiver.receive_logs(build_protobuf_request([event]), "protobuf").rejected == 0
    operation = read(journal)
    assert (operation.ratio, operation.root.stage) == (0.4, "mix")
    shown = sorted(operation.levels, key=lambda stage: stage.info.order)
    assert [(stage.info.id, stage.status, stage.info.weight, stage.info.declared) for stage in shown] == [
        ("load", Status.COMPLETED, 1, True),
        ("mix", Status.RUNNING, 6.5, True),
        ("encode", Status.PENDING, 2, True),
    ]
    assert [stage.info.started_at for stage in shown] == [WALL, WALL + 4.0, None]
    assert [stage.duration_s for stage in shown] == [4.0, None, None]
    receiver.receive_logs(
        build_protobuf_request([build_level_event(FINISHED, skipped, WALL + 9.0)]), "protobuf"
    )
    (stage,) = [stage for stage in read(journal).levels if stage.info.id == "encode"]
    assert (stage.status, stage.info.started_at, stage.duration_s) == (Status.SKIPPED, None, None)


def test_stages_of_another_program_are_shown(receiver: Receiver, journal: SqliteJournal) -> None:
    """Only documented attributes are used."""
    stages = []
    for order, (name, weight) in enumerate((("load", 1), ("encode", 3))):
        values = {
            semconv.OPERATION_ID: "clip-7",
            semconv.PATH: f"stage:{name}",
            semconv.LEVEL_DECLARED: True,
            semconv.LEVEL_ORDER: order,
            semconv.LEVEL_WEIGHT: weight,
            semconv.STATUS: "pending",
        }
        stages.append(LogEvent(UPDATED, "", WALL, None, None, values))
    root = {semconv.OPERATION_ID: "clip-7", semconv.RATIO: 0.25, semconv.CURRENT_STAGE: "encode"}
    body = build_json_request([*stages, LogEvent(UPDATED, "", WALL + 1.0, None, None, root)])
    assert receiver.receive_logs(body, "json").rejected == 0
    operation = read(journal, "clip-7")
    assert (operation.ratio, operation.root.stage) == (0.25, "encode")
    assert [(stage.path, stage.status, stage.info.weight) for stage in operation.levels] == [
        ("stage:load", Status.PENDING, 1),
        ("stage:encode", Status.PENDING, 3),
    ]


def test_operation_that_advances_only_in_a_stage_is_not_stalled(
    receiver: Receiver, journal: SqliteJournal, fake_time: FakeTime
) -> None:
    """Its count stays the same while its ratio grows. An estimate is no advance."""
    for number in range(1, 5):
        fake_time.pass_(50.0)
        clock = 50.0 * number
        root = level(clock=clock, sequence=number, current=1, total=3, ratio=0.1 * number, stage="mix")
        receiver.receive_logs(
            build_protobuf_request([build_level_event(UPDATED, root, WALL + clock)]), "protobuf"
        )
        assert read(journal).condition is Condition.OK
    for number in range(5, 8):
        fake_time.pass_(50.0)
        clock = 50.0 * number
        root = level(clock=clock, sequence=number, current=1, ratio=0.1 * number, estimated=True)
        receiver.receive_logs(
            build_protobuf_request([build_level_event(UPDATED, root, WALL + clock)]), "protobuf"
        )
    assert read(journal).root.estimated
    assert read(journal).condition is Condition.STALLED
