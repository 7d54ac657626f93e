"""Statements and query plans of journal queries."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from otel_progress.journal import SqliteJournal
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite.connection import ManagedConnection
from otel_progress.journal.sqlite.watcher import Watcher
from otel_progress.model import Status
from tests.support.factories import (
    batch_info,
    ended,
    history_key,
    instance,
    make_change_set,
    make_trajectory_entry,
    preview,
    snapshot,
)
from tests.support.fake_time import FakeTime


@contextmanager
def _trace_statements(handle: ManagedConnection) -> Iterator[list[str]]:
    """Collect the statements that a connection runs."""
    asked: list[str] = []
    with handle.acquire() as connection:
        connection.set_trace_callback(asked.append)
    yield asked
    with handle.acquire() as connection:
        connection.set_trace_callback(None)


def _explain_statements(connection: sqlite3.Connection, statements: list[str]) -> list[str]:
    queries = [one for one in statements if one.startswith("SELECT")]
    return [row[3] for query in queries for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]


def test_idle_watch_reads_only_the_version(path: Path, fake_time: FakeTime) -> None:
    """Nothing is read until another process writes or half a second has passed."""
    journal = SqliteJournal(path, now=fake_time.read_now, clock=fake_time.read_clock)
    journal.write(make_change_set(snapshot()))
    watcher = Watcher(
        path,
        lambda: ReadTime(fake_time.now, fake_time.clock),
        read_only=True,
        missing_ok=False,
        levels=False,
        busy_timeout_s=2.0,
    )
    watch = watcher.follow(0.02, fake_time.sleep)
    next(watch)
    with _trace_statements(watcher._handle) as asked:
        for _ in range(20):
            assert list(next(watch)) == []
    assert set(asked) == {"PRAGMA data_version"}
    journal.write(make_change_set(snapshot(sequence=2)))
    with _trace_statements(watcher._handle) as asked:
        assert len(next(watch)) == 1
    assert not any("l.path <> ''" in statement for statement in asked)
    watch.close()
    journal.close()


def test_cancel_request_poll_without_writes_runs_no_query(open_another: Callable[..., SqliteJournal]) -> None:
    """Only other connections make it query."""
    worker = open_another()
    worker.write(make_change_set(snapshot()))
    worker.cancel_requests("instance-1")
    with _trace_statements(worker._writing) as asked:
        worker.cancel_requests("instance-1")
        worker.cancel_requests("instance-1")
    assert asked == ["PRAGMA data_version"] * 2
    open_another().write(make_change_set(snapshot(run="r2", operation_id="o2")))
    with _trace_statements(worker._writing) as asked:
        worker.cancel_requests("instance-1")
        worker.cancel_requests("instance-1")
    assert len(asked) == 3


def test_batch_is_counted_by_index(open_another: Callable[..., SqliteJournal]) -> None:
    """Only listed operations are read."""
    journal = open_another()
    roots = [
        ended(operation_id=f"o{n}", run=f"r{n}", batch="b", status=list(Status)[2 + n % 4])
        for n in range(300)
    ]
    running = [snapshot(operation_id=f"a{n}", run=f"a{n}", batch="b", ratio=0.5) for n in range(10)]
    journal.write(make_change_set(*roots, *running, batches=[batch_info("b")]))
    with _trace_statements(journal._reading) as asked:
        assert journal.batch("b") is not None
    with journal._reading.acquire() as connection:
        plan = _explain_statements(connection, asked)
    operations = [step for step in plan if " o " in f"{step} " or "operations" in step]
    assert operations
    assert all("USING" in step and "operations_by_batch" in step for step in operations)
    assert sum("COVERING INDEX operations_by_batch" in step for step in operations) >= 5


def test_watch_without_levels_reads_roots_only(open_another: Callable[..., SqliteJournal]) -> None:
    """The first result and changes have no levels."""
    journal = open_another()
    journal.write(make_change_set(snapshot(), snapshot("song:1")))
    watch = open_another().watch(levels=False)
    assert [(operation.run, operation.levels) for operation in next(watch)] == [("run-1", ())]
    journal.write(make_change_set(snapshot("song:1", sequence=2), snapshot(sequence=3)))
    assert [(operation.root.sequence, operation.levels) for operation in next(watch)] == [(3, ())]
    watch.close()


def test_advance_of_level_binds_nine_values(open_another: Callable[..., SqliteJournal]) -> None:
    """Pauses, previews and estimates do not need the long update."""
    journal = open_another()
    had = {"paused_s": 3.0, "previews": 2, "overdue_after_s": 90.0, "resumed_from": 3}
    journal.write(make_change_set(snapshot(**had), snapshot("song:1")))
    with _trace_statements(journal._writing) as asked:
        journal.write(
            make_change_set(snapshot(sequence=2, current=1, **had), snapshot("song:1", sequence=3, current=1))
        )
    updates = [one for one in asked if one.startswith("UPDATE states")]
    assert len(updates) == 2
    assert all(one.count(" = ") == 10 and "extra" not in one for one in updates)


def test_trajectories_and_previews_use_an_index(open_another: Callable[..., SqliteJournal]) -> None:
    """Reading and deleting never scan the tables."""
    journal = open_another()
    journal.write(make_change_set(ended(), trajectories=[make_trajectory_entry()], previews=[preview()]))
    with _trace_statements(journal._reading) as asked:
        assert len(journal.trajectories(history_key())) == len(journal.previews("friday-42")) == 1
        assert journal.delete("friday-42") == 1
    with journal._reading.acquire() as connection:
        statements = [
            one
            for one in asked
            if one.startswith(("SELECT", "DELETE")) and ("trajectories" in one or "previews" in one)
        ]
        plan = [row[3] for one in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {one}")]
    assert len(statements) >= 6
    assert not [step for step in plan if step.startswith("SCAN")]


def test_search_for_duplicate_ids_reads_only_active_runs(path: Path) -> None:
    """An id may have many ended runs. One query checks 500 ids."""
    roots = [
        snapshot(operation_id=f"job {n}", run=f"run {n}", is_id_given=True, instance="other")
        for n in range(1_001)
    ]
    with closing(SqliteJournal(path, rename_run=lambda run, used_ids: None)) as journal:
        journal.write(make_change_set(*(ended(run=f"ended {n}") for n in range(50))))
        with _trace_statements(journal._writing) as asked:
            journal.write(make_change_set(*roots, instance=instance("other")))
        searches = [one for one in asked if "operation_id IN" in one]
        assert len(searches) == 3
        with journal._writing.acquire() as connection:
            plan = _explain_statements(connection, searches)
    assert any("operations_active_by_id (operation_id=?)" in step for step in plan)
    assert not any(step.startswith("SCAN") for step in plan)
