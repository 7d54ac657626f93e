"""What goes beside operations and events: logs, samples, requests, and what stays of batches whose operations are gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite import retention
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.model import LevelSnapshot, Status
from otel_progress.processes import current_instance
from otel_progress.protocols import HistoryQuery, LogQuery
from tests.support.factories import (
    WALL,
    batch,
    batch_info,
    ended,
    instance,
    log,
    resource_use,
    sample,
    snapshot,
)
from tests.support.fake_time import FakeTime

MIB = 1024 * 1024


def _open(path: Path, time: FakeTime, **options: object) -> SqliteJournal:
    return SqliteJournal(path, now=time.read_now, clock=time.read_clock, **options)


def _count(journal: SqliteJournal, *tables: str) -> list[int]:
    with journal._reading.acquire() as connection:
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def _tick(journal: SqliteJournal, time: FakeTime, seconds: float) -> None:
    time.pass_(seconds)
    journal.write(batch(at=time.now, clock=time.clock, instance=instance("janitor")))


def test_nothing_of_an_ended_operation_stays_behind(path: Path, fake_time: FakeTime) -> None:
    """Logs, use and request go with their operation, samples with the last operation of a process that is gone."""
    journal = _open(path, fake_time, retention_s=3600.0)
    journal.write(
        batch(
            snapshot(), sample=sample(), resources={"run-1": resource_use()}, logs=[log(1), log(2, "song:1")]
        )
    )
    journal.request_cancel("friday-42", "stop")
    journal.write(batch(ended(), sample=sample(1)))
    tables = ("operations", "logs", "uses", "requests", "samples", "instances")
    _tick(journal, fake_time, 3000.0)
    assert _count(journal, *tables) == [1, 2, 1, 1, 2, 2]
    _tick(journal, fake_time, 1000.0)
    assert _count(journal, *tables) == [0, 0, 0, 0, 0, 1]
    journal.close()


def _in_batch(number: int, at: float, status: Status = Status.COMPLETED) -> LevelSnapshot:
    return ended(operation_id=f"o{number}", run=f"r{number}", batch="thumbnails", ended_at=at, status=status)


def test_a_batch_outlives_its_operations_with_its_counts(path: Path, fake_time: FakeTime) -> None:
    """As long as something of it runs or is recent it stays; what retention deletes is counted on, once."""
    journal = _open(path, fake_time, retention_s=3600.0)
    me = replace(current_instance("tests"), id="instance-1")
    first = [
        _in_batch(number, WALL + number, Status.FAILED if number < 3 else Status.COMPLETED)
        for number in range(10)
    ]
    running = snapshot(operation_id="long", run="long", batch="thumbnails")
    journal.write(batch(running, *first, instance=me, batches=[batch_info(total=12)]))
    for _ in range(3):
        _tick(journal, fake_time, 7200.0)
    assert list(journal.history()) == []
    found = journal.batch("thumbnails")
    assert found is not None
    assert [found.counts[status] for status in (Status.COMPLETED, Status.FAILED, Status.RUNNING)] == [7, 3, 1]
    assert (found.name, found.total, list(found.failed)) == ("Name of thumbnails", 12, [])
    last = replace(running, sequence=2, status=Status.COMPLETED, ended_at=fake_time.now, duration_s=1.0)
    journal.write(batch(last, _in_batch(10, fake_time.now), instance=me, at=fake_time.now))
    _tick(journal, fake_time, 1800.0)
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.finished_count, found.is_finished, found.status) == (12, True, Status.FAILED)
    _tick(journal, fake_time, 1900.0)
    _tick(journal, fake_time, 1900.0)
    assert journal.batch("thumbnails") is None
    assert _count(journal, "batches") == [0]
    journal.close()


def test_the_counts_are_right_at_every_moment_of_a_long_deletion(path: Path, fake_time: FakeTime) -> None:
    """Deleting is spread over many passes; in none of them is an operation missing or counted twice."""
    journal = _open(path, fake_time, retention_s=60.0, limits=JournalLimits(rows_per_pass=25))
    roots = [_in_batch(number, WALL + number / 10) for number in range(150)]
    running = snapshot(operation_id="long", run="long", batch="thumbnails")
    me = replace(current_instance("tests"), id="instance-1")
    journal.write(batch(*roots, running, instance=me, batches=[batch_info(total=200)]))
    fake_time.pass_(3600.0)
    kept = []
    for _ in range(20):
        _tick(journal, fake_time, retention.BUSY_INTERVAL_S)
        found = journal.batch("thumbnails")
        assert found is not None
        assert found.counts[Status.COMPLETED] == 150
        assert found.throughput is not None
        kept.append(len(journal.history(HistoryQuery(limit=1000))))
    assert kept[0] > kept[1] > kept[5]
    assert kept[-1] == 0
    journal.close()


def test_a_declaration_without_operations_goes_after_its_time(path: Path, fake_time: FakeTime) -> None:
    """A batch that never came to anything is kept as long as what ended."""
    journal = _open(path, fake_time, retention_s=3600.0)
    journal.write(batch(batches=[batch_info()]))
    _tick(journal, fake_time, 3500.0)
    assert journal.batch("thumbnails") is not None
    _tick(journal, fake_time, 200.0)
    assert journal.batch("thumbnails") is None
    journal.close()


def test_logs_and_samples_keep_within_the_size_of_the_file(path: Path, fake_time: FakeTime) -> None:
    """When only living operations are left, their oldest records go, down to a thousand each."""
    me = replace(current_instance("tests"), id="instance-1")
    journal = _open(path, fake_time, max_bytes=MIB)
    for number in range(4):
        gone = instance(f"gone-{number}")
        journal.write(batch(instance=gone, sample=sample()))
    journal.write(batch(snapshot(), instance=me))
    for start in range(1, 9_000, 250):
        fake_time.pass_(30.0)
        records = [
            log(number, f"song:{number % 20}", message="x" * 300) for number in range(start, start + 250)
        ]
        journal.write(batch(instance=me, at=fake_time.now, logs=records))
        assert path.stat().st_size < 1.5 * MIB
    kept = [record.number for record in journal.logs("friday-42", LogQuery(limit=100_000))]
    assert len(kept) >= retention.KEPT_RECORDS_PER_OPERATION
    assert kept == list(range(kept[0], 9_001))
    assert journal.dropped == 9_000 - len(kept)
    assert _count(journal, "samples", "instances") == [0, 1]
    journal.close()
