"""Deletion by age and by size of the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite import retention
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.processes import current_instance
from otel_progress.protocols import EventQuery
from tests.support.factories import WALL, ended, event, instance, make_change_set, snapshot
from tests.support.fake_time import FakeTime

MIB = 1024 * 1024


@pytest.fixture
def me() -> object:
    """The process that runs the tests, which lives."""
    return replace(current_instance("tests"), id="instance-1")


def _open_journal(path: Path, time: FakeTime, **options: object) -> SqliteJournal:
    return SqliteJournal(path, now=time.read_now, clock=time.read_clock, **options)


def _count_rows(journal: SqliteJournal) -> dict[str, int]:
    tables = ("operations", "levels", "states", "events", "instances")
    with journal._reading.acquire() as connection:
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_ended_operations_are_deleted_after_retention(path: Path, fake_time: FakeTime) -> None:
    """No row of them is left."""
    journal = _open_journal(path, fake_time, retention_s=3600.0)
    journal.write(make_change_set(ended(), ended("song:1"), events=[event(1), event(2, "song:1")]))
    fake_time.pass_(1800.0)
    journal.write(
        make_change_set(ended(operation_id="later", run="r2", ended_at=fake_time.now), at=fake_time.now)
    )
    fake_time.pass_(1900.0)
    journal.write(make_change_set(at=fake_time.now))
    assert [operation.operation_id for operation in journal.history()] == ["later"]
    assert _count_rows(journal) == {"operations": 1, "levels": 1, "states": 1, "events": 0, "instances": 1}
    assert journal.dropped == 0
    journal.close()


def test_abandoned_operations_are_deleted_after_retention(
    path: Path, fake_time: FakeTime, me: object
) -> None:
    """Operations of living processes are kept."""
    journal = _open_journal(path, fake_time, retention_s=3600.0)
    dead = instance("dead")
    journal.write(make_change_set(snapshot(operation_id="dead", run="d", instance="dead"), instance=dead))
    journal.write(make_change_set(snapshot(), snapshot("song:1"), instance=me))
    fake_time.pass_(3000.0)
    journal.write(make_change_set(instance=me, at=fake_time.now))
    assert {operation.operation_id for operation in journal.active()} == {"dead", "friday-42"}
    fake_time.pass_(7200.0)
    journal.write(make_change_set(instance=me, at=fake_time.now))
    assert [operation.operation_id for operation in journal.active()] == ["friday-42"]
    assert _count_rows(journal)["instances"] == 1
    journal.close()


def test_process_whose_operation_was_deleted_writes_it_again(path: Path, fake_time: FakeTime) -> None:
    """The operation gets new rows."""
    worker, janitor = _open_journal(path, fake_time), _open_journal(path, fake_time, retention_s=60.0)
    worker.write(make_change_set(snapshot(), snapshot("song:1")))
    fake_time.pass_(3600.0)
    other = instance("other")
    janitor.write(make_change_set(instance=other, at=fake_time.now))
    fake_time.pass_(60.0)
    janitor.write(
        make_change_set(
            snapshot(operation_id="o2", run="r2", instance="other"), instance=other, at=fake_time.now
        )
    )
    assert [operation.operation_id for operation in janitor.active()] == ["o2"]
    worker.write(
        make_change_set(snapshot(sequence=2, current=5), snapshot("song:1", sequence=3), at=fake_time.now)
    )
    found = janitor.get("friday-42")
    assert found is not None
    assert (found.root.current, len(found.levels)) == (5, 1)
    other_operation = janitor.get("o2")
    assert other_operation is not None
    assert (other_operation.root.current, other_operation.levels) == (0, ())
    worker.close()
    janitor.close()


def test_file_stays_within_size_limit(path: Path, fake_time: FakeTime, me: object) -> None:
    """The oldest ended operations are deleted and counted."""
    journal = _open_journal(path, fake_time, max_bytes=MIB)
    journal.write(make_change_set(snapshot(), instance=me))
    for number in range(60):
        fake_time.pass_(2.0)
        events = [event(n, run=f"r{number}", operation_id=f"o{number}", name="x" * 200) for n in range(200)]
        root = ended(operation_id=f"o{number}", run=f"r{number}", ended_at=fake_time.now)
        journal.write(make_change_set(root, events=events, instance=me, at=fake_time.now))
        assert path.stat().st_size < 1.5 * MIB
    kept = [operation.operation_id for operation in journal.history()]
    assert kept == [f"o{number}" for number in range(59, 59 - len(kept), -1)]
    assert 0 < len(kept) < 60
    assert journal.dropped == 60 - len(kept)
    assert journal.get("friday-42") is not None
    journal.close()
    assert path.stat().st_size <= MIB


def test_endless_operation_keeps_its_newest_events(path: Path, fake_time: FakeTime, me: object) -> None:
    """The oldest events of active operations are deleted last."""
    journal = _open_journal(path, fake_time, max_bytes=MIB)
    journal.write(make_change_set(snapshot(), instance=me))
    for start in range(0, 30_000, 500):
        fake_time.pass_(2.0)
        journal.write(
            make_change_set(instance=me, events=[event(start + n, name="x" * 100) for n in range(500)])
        )
    assert path.stat().st_size < 1.5 * MIB
    kept = [item.number for item in journal.events("friday-42", EventQuery(limit=100_000))]
    assert kept == list(range(30_000 - len(kept), 30_000))
    assert len(kept) >= retention.KEPT_RECORDS_PER_OPERATION
    assert journal.dropped == 30_000 - len(kept)
    journal.close()


def test_retention_pass_is_bounded_and_continues(path: Path, fake_time: FakeTime) -> None:
    """Many rows are deleted over many ticks."""
    journal = _open_journal(path, fake_time, retention_s=60.0, limits=JournalLimits(rows_per_pass=100))
    journal.write(
        make_change_set(
            ended(), *(ended(f"song:{n}") for n in range(250)), events=[event(n) for n in range(450)]
        )
    )
    fake_time.pass_(3600.0)
    left = []
    for _ in range(9):
        journal.write(make_change_set(at=fake_time.now))
        left.append(sum(_count_rows(journal)[table] for table in ("levels", "events")))
        fake_time.pass_(retention.BUSY_INTERVAL_S)
    assert left == sorted(left, reverse=True)
    assert max(before - after for before, after in zip([701, *left], left, strict=False)) <= 101
    assert _count_rows(journal) == {"operations": 0, "levels": 0, "states": 0, "events": 0, "instances": 1}
    journal.close()


def test_step_of_wall_clock_keeps_recent_operations(path: Path, fake_time: FakeTime) -> None:
    """An hour does not matter for a retention of a day."""
    journal = _open_journal(path, fake_time)
    journal.write(make_change_set(ended()))
    for step in (3600.0, -7200.0):
        fake_time.now += step
        fake_time.clock += 120.0
        journal.write(make_change_set(at=fake_time.now))
    assert len(journal.history()) == 1
    assert fake_time.now != WALL
    journal.close()
