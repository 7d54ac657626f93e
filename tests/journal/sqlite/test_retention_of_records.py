"""Deletion of logs, samples, requests and batches."""

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
    batch_info,
    ended,
    instance,
    log,
    make_change_set,
    resource_use,
    sample,
    snapshot,
)
from tests.support.fake_time import FakeTime

MIB = 1024 * 1024


def _open_journal(path: Path, time: FakeTime, **options: object) -> SqliteJournal:
    return SqliteJournal(path, now=time.read_now, clock=time.read_clock, **options)


def _count_rows(journal: SqliteJournal, *tables: str) -> list[int]:
    with journal._reading.acquire() as connection:
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def _write_after(journal: SqliteJournal, time: FakeTime, seconds: float) -> None:
    time.pass_(seconds)
    journal.write(make_change_set(at=time.now, clock=time.clock, instance=instance("janitor")))


def test_ended_operation_is_deleted_with_all_records(path: Path, fake_time: FakeTime) -> None:
    """Samples are deleted with the last operation of their process."""
    journal = _open_journal(path, fake_time, retention_s=3600.0)
    journal.write(
        make_change_set(
            snapshot(), sample=sample(), resources={"run-1": resource_use()}, logs=[log(1), log(2, "song:1")]
        )
    )
    journal.request_cancel("friday-42", "stop")
    journal.write(make_change_set(ended(), sample=sample(1)))
    tables = ("operations", "logs", "uses", "requests", "samples", "instances")
    _write_after(journal, fake_time, 3000.0)
    assert _count_rows(journal, *tables) == [1, 2, 1, 1, 2, 2]
    _write_after(journal, fake_time, 1000.0)
    assert _count_rows(journal, *tables) == [0, 0, 0, 0, 0, 1]
    journal.close()


def _build_ended(number: int, at: float, status: Status = Status.COMPLETED) -> LevelSnapshot:
    return ended(operation_id=f"o{number}", run=f"r{number}", batch="thumbnails", ended_at=at, status=status)


def test_batch_outlives_its_deleted_operations(path: Path, fake_time: FakeTime) -> None:
    """Deleted operations are counted once."""
    journal = _open_journal(path, fake_time, retention_s=3600.0)
    me = replace(current_instance("tests"), id="instance-1")
    first = [
        _build_ended(number, WALL + number, Status.FAILED if number < 3 else Status.COMPLETED)
        for number in range(10)
    ]
    running = snapshot(operation_id="long", run="long", batch="thumbnails")
    journal.write(make_change_set(running, *first, instance=me, batches=[batch_info(total=12)]))
    for _ in range(3):
        _write_after(journal, fake_time, 7200.0)
    assert list(journal.history()) == []
    found = journal.batch("thumbnails")
    assert found is not None
    assert [found.counts[status] for status in (Status.COMPLETED, Status.FAILED, Status.RUNNING)] == [7, 3, 1]
    assert (found.name, found.total, list(found.failed)) == ("Name of thumbnails", 12, [])
    last = replace(running, sequence=2, status=Status.COMPLETED, ended_at=fake_time.now, duration_s=1.0)
    journal.write(make_change_set(last, _build_ended(10, fake_time.now), instance=me, at=fake_time.now))
    _write_after(journal, fake_time, 1800.0)
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.finished_count, found.is_finished, found.status) == (12, True, Status.FAILED)
    _write_after(journal, fake_time, 1900.0)
    _write_after(journal, fake_time, 1900.0)
    assert journal.batch("thumbnails") is None
    assert _count_rows(journal, "batches") == [0]
    journal.close()


def test_batch_counts_are_exact_during_long_deletion(path: Path, fake_time: FakeTime) -> None:
    """No operation is missing or counted twice between passes."""
    journal = _open_journal(path, fake_time, retention_s=60.0, limits=JournalLimits(rows_per_pass=25))
    roots = [_build_ended(number, WALL + number / 10) for number in range(150)]
    running = snapshot(operation_id="long", run="long", batch="thumbnails")
    me = replace(current_instance("tests"), id="instance-1")
    journal.write(make_change_set(*roots, running, instance=me, batches=[batch_info(total=200)]))
    fake_time.pass_(3600.0)
    kept = []
    for _ in range(20):
        _write_after(journal, fake_time, retention.BUSY_INTERVAL_S)
        found = journal.batch("thumbnails")
        assert found is not None
        assert found.counts[Status.COMPLETED] == 150
        assert found.throughput is not None
        kept.append(len(journal.history(HistoryQuery(limit=1000))))
    assert kept[0] > kept[1] > kept[5]
    assert kept[-1] == 0
    journal.close()


def test_declaration_without_operations_is_deleted_after_retention(path: Path, fake_time: FakeTime) -> None:
    """It is kept as long as ended operations."""
    journal = _open_journal(path, fake_time, retention_s=3600.0)
    journal.write(make_change_set(batches=[batch_info()]))
    _write_after(journal, fake_time, 3500.0)
    assert journal.batch("thumbnails") is not None
    _write_after(journal, fake_time, 200.0)
    assert journal.batch("thumbnails") is None
    journal.close()


def test_logs_and_samples_stay_within_size_limit(path: Path, fake_time: FakeTime) -> None:
    """A thousand records per active operation are kept."""
    me = replace(current_instance("tests"), id="instance-1")
    journal = _open_journal(path, fake_time, max_bytes=MIB)
    for number in range(4):
        gone = instance(f"gone-{number}")
        journal.write(make_change_set(instance=gone, sample=sample()))
    journal.write(make_change_set(snapshot(), instance=me))
    for start in range(1, 9_000, 250):
        fake_time.pass_(30.0)
        records = [
            log(number, f"song:{number % 20}", message="x" * 300) for number in range(start, start + 250)
        ]
        journal.write(make_change_set(instance=me, at=fake_time.now, logs=records))
        assert path.stat().st_size < 1.5 * MIB
    kept = [record.number for record in journal.logs("friday-42", LogQuery(limit=100_000))]
    assert len(kept) >= retention.KEPT_RECORDS_PER_OPERATION
    assert kept == list(range(kept[0], 9_001))
    assert journal.dropped == 9_000 - len(kept)
    assert _count_rows(journal, "samples", "instances") == [0, 1]
    journal.close()
