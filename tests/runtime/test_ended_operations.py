"""Ends of many operations: none is lost, and a flush reports a failure."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.ends import decode_end, encode_end
from otel_progress.journal import SqliteJournal, open_journal
from otel_progress.journal.spill import list_segments
from otel_progress.live import tree
from otel_progress.protocols import ChangeSet
from otel_progress.runtime import sink_worker
from otel_progress.runtime.runtime import Runtime
from otel_progress.runtime.sink_worker import PendingLimits, SinkWorker
from tests.support.factories import ended, event, instance, make_change_set, snapshot


class MemoryOverflow:
    """Queue of records without a file."""

    def __init__(self, *, max_records: int = 1_000) -> None:
        self.records: list[bytes] = []
        self.lost = 0
        self._max_records = max_records
        self._read = 0

    def __len__(self) -> int:
        return len(self.records)

    def append(self, records: Sequence[bytes]) -> int:
        """Store records up to the limit."""
        stored = records[: max(0, self._max_records - len(self.records))]
        self.records += stored
        return len(stored)

    def read(self, max_records: int) -> list[bytes]:
        """Return the oldest records."""
        found = self.records[:max_records]
        self._read = len(found)
        return found

    def remove_read(self) -> None:
        """Remove the records of the last read."""
        del self.records[: self._read]
        self._read = 0


class Sink:
    """Sink that stores runs of ended operations. It fails or waits on request."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.sizes: list[int] = []
        self.failing = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.store: Callable[[ChangeSet], object] = lambda change_set: None

    def write(self, change_set: ChangeSet) -> None:
        """Store a change set, or reject it."""
        self.entered.set()
        self.gate.wait()
        if self.failing:
            raise OSError("no room")
        self.store(change_set)
        runs = [one.info.run for one in change_set.snapshots if one.status.finished]
        self.runs += runs
        self.sizes.append(len(runs))

    def close(self) -> None:
        """Do nothing."""


def make_ends(start: int, stop: int) -> ChangeSet:
    """Return a change set with ended operations."""
    return make_change_set(*(ended(run=f"run-{number}") for number in range(start, stop)))


def name_runs(start: int, stop: int) -> list[str]:
    """Return their runs."""
    return [f"run-{number}" for number in range(start, stop)]


LIMITS = PendingLimits(ends=10, unspilled_ends=20, ends_per_write=4)


def test_sink_worker_writes_many_ends_in_parts_and_other_records_first() -> None:
    """Records of a level are stored with its end or before it."""
    sink, written = Sink(), []
    worker = SinkWorker("sink", sink, limits=LIMITS, on_written=written.append)
    worker.submit(
        make_change_set(
            snapshot("a:1"), *(ended(run=f"run-{number}") for number in range(9)), events=[event(1)]
        )
    )
    assert worker.close(60.0)
    assert sink.runs == name_runs(0, 9)
    assert max(sink.sizes) == 4
    assert [len(change_set.events) for change_set in written] == [1, 0, 0]


def test_sink_worker_moves_ends_beyond_its_memory_limit_to_the_overflow_and_writes_all() -> None:
    """None is dropped, although the sink hangs and then fails."""
    sink, overflow, dropped = Sink(), MemoryOverflow(), []
    worker = SinkWorker(
        "sink", sink, limits=LIMITS, overflow=overflow, on_dropped=lambda name, count: dropped.append(count)
    )
    sink.gate.clear()
    worker.submit(make_ends(0, 4))
    assert sink.entered.wait(60.0)
    for start in range(4, 100, 8):
        worker.submit(make_ends(start, start + 8))
    assert len(overflow) == 86
    sink.failing = True
    sink.gate.set()
    assert worker.flush(60.0) is False
    sink.failing = False
    assert worker.flush(60.0)
    assert sorted(sink.runs) == sorted(name_runs(0, 100))
    assert max(sink.sizes) <= 8
    assert len(overflow) == 0
    assert dropped == []
    assert worker.close(60.0)


def test_change_set_rejected_while_another_one_waits_is_written_with_it() -> None:
    """The error may arrive after the next tick."""
    sink = Sink()
    worker = SinkWorker("sink", sink)
    sink.gate.clear()
    sink.failing = True
    worker.submit(make_ends(0, 1))
    assert sink.entered.wait(60.0)
    worker.submit(make_ends(1, 2))
    sink.gate.set()
    assert worker.flush(60.0) is False
    sink.failing = False
    assert worker.flush(60.0)
    assert sorted(sink.runs) == name_runs(0, 2)
    assert worker.close(60.0)


def test_end_in_the_overflow_before_a_rejected_snapshot_ends_the_operation(tmp_path: Path) -> None:
    """It is written after the end, and contains the operation as running."""
    sink, overflow = Sink(), MemoryOverflow()
    worker = SinkWorker("sink", sink, limits=PendingLimits(ends=0), overflow=overflow)
    with closing(SqliteJournal(tmp_path / "journal.db")) as journal:
        sink.store = journal.write
        sink.gate.clear()
        sink.failing = True
        worker.submit(make_change_set(snapshot(sequence=1)))
        assert sink.entered.wait(60.0)
        worker.submit(make_change_set(ended(sequence=5)))
        assert len(overflow) == 1
        sink.gate.set()
        assert worker.flush(60.0) is False
        sink.failing = False
        assert worker.flush(60.0)
        assert [operation.root.sequence for operation in journal.history()] == [5]
        assert not journal.active()
        assert worker.close(60.0)


def test_flush_with_failing_sink_and_waiting_overflow_tries_again() -> None:
    """Only ends of the overflow wait, so nothing was rejected."""
    sink, overflow = Sink(), MemoryOverflow()
    worker = SinkWorker("sink", sink, limits=LIMITS, overflow=overflow)
    sink.failing = True
    worker.submit(make_change_set())
    assert worker.flush(60.0) is False
    overflow.append([encode_end(ended(run="run-1"))])
    assert worker.flush(60.0) is False
    sink.failing = False
    assert worker.flush(60.0)
    assert sink.runs == ["run-1"]
    assert worker.close(60.0)


def test_sink_worker_with_full_overflow_drops_and_counts_the_oldest_ends() -> None:
    """The memory keeps more of them while the overflow cannot be written."""
    sink, dropped = Sink(), []
    worker = SinkWorker(
        "sink",
        sink,
        limits=LIMITS,
        overflow=MemoryOverflow(max_records=5),
        on_dropped=lambda name, count: dropped.append(count),
    )
    sink.gate.clear()
    worker.submit(make_change_set())
    assert sink.entered.wait(60.0)
    for start in range(0, 40, 10):
        worker.submit(make_ends(start, start + 10))
    sink.gate.set()
    assert worker.close(60.0)
    assert sum(dropped) == worker.dropped_ends == 15
    assert sorted(sink.runs) == sorted(name_runs(0, 5) + name_runs(20, 40))


def test_sink_worker_without_overflow_drops_and_counts_ends_beyond_its_limit() -> None:
    """A sink without a journal has no file."""
    sink, dropped = Sink(), []
    worker = SinkWorker("sink", sink, limits=LIMITS, on_dropped=lambda name, count: dropped.append(count))
    sink.gate.clear()
    worker.submit(make_change_set())
    assert sink.entered.wait(60.0)
    worker.submit(make_ends(0, 25))
    sink.gate.set()
    assert worker.close(60.0)
    assert sink.runs == name_runs(15, 25)
    assert sum(dropped) == worker.dropped_ends == 15


def test_close_of_hanging_sink_moves_all_unwritten_ends_to_the_overflow() -> None:
    """Those of the write that hangs are included, and those that are submitted later."""
    sink, overflow = Sink(), MemoryOverflow()
    worker = SinkWorker("sink", sink, limits=LIMITS, overflow=overflow)
    sink.gate.clear()
    worker.submit(make_ends(0, 3))
    assert sink.entered.wait(60.0)
    worker.submit(make_ends(3, 9))
    assert worker.close(0.05) is False
    worker.submit(make_ends(9, 10))
    sink.gate.set()
    assert [decode_end(record).info.run for record in overflow.records] == name_runs(0, 10)


def test_close_of_failing_sink_moves_rejected_ends_to_the_overflow() -> None:
    """A later process writes them."""
    sink, overflow = Sink(), MemoryOverflow()
    worker = SinkWorker("sink", sink, limits=LIMITS, overflow=overflow)
    sink.failing = True
    worker.submit(make_ends(0, 3))
    assert worker.close(60.0) is False
    assert [decode_end(record).info.run for record in overflow.records] == name_runs(0, 3)


# --- with a real journal -------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that some hundred operations exceed."""
    limits = tree.Limits(waiting_operations=10, waiting_end_bytes=40_000)
    monkeypatch.setattr(tree, "Limits", lambda: limits)
    monkeypatch.setattr("otel_progress.live.store.Limits", lambda: limits)
    pending = PendingLimits(ends=20, unspilled_ends=40, ends_per_write=10)
    monkeypatch.setattr(sink_worker, "PendingLimits", lambda: pending)


@pytest.fixture
def runtime(tmp_path: Path, small_limits: None) -> Iterator[Runtime]:
    """Runtime with a journal and small limits."""
    del small_limits
    with progress.configure(store=f"sqlite:///{tmp_path}/progress.db", console=False) as runtime:
        yield runtime


def count_ended(path: Path) -> int:
    """Return the number of ended operations in a journal."""
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM operations WHERE finished_at IS NOT NULL"
        ).fetchone()
    return int(count)


def read_counter(runtime: Runtime, metric: Any) -> dict[tuple[str, ...], Any]:
    """Return the series of a counter."""
    return dict(runtime._components.totals.read().counters.get(metric, {}))


def test_many_ends_at_once_all_reach_journal_and_metrics(runtime: Runtime, tmp_path: Path) -> None:
    """Several threads end more operations than fit into the memory."""
    runtime._ticker.set_background(False)

    def work(name: int) -> None:
        for number in range(40):
            with progress.operation("job", id=f"{name}-{number}", total=1) as op:
                op.increment()
            # Why: a tick of another thread moves ends to the file.
            runtime._ticker.tick() if number == 39 else None

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runtime.force_flush(60.0)
    assert count_ended(tmp_path / "progress.db") == 80
    assert read_counter(runtime, semconv.OPERATIONS_FINISHED)["job", "completed"] == 80
    assert list_segments(tmp_path / "progress.db") == []


def test_ends_beyond_the_memory_limit_without_a_tick_make_the_flush_incomplete(
    runtime: Runtime, tmp_path: Path
) -> None:
    """The dropped ones are counted, and the next flush is complete."""
    runtime._ticker.set_background(False)
    for number in range(300):
        with progress.operation("job", id=str(number)):
            pass
    assert runtime.force_flush(60.0) is False
    stored = count_ended(tmp_path / "progress.db")
    dropped = read_counter(runtime, semconv.UPDATES_REJECTED)[("waiting",)]
    assert 0 < stored < 300
    assert stored + dropped == 300
    assert runtime.force_flush(60.0)


def test_ends_during_an_outage_of_the_journal_are_written_after_it(runtime: Runtime, tmp_path: Path) -> None:
    """Metrics do not wait for the journal."""
    path = tmp_path / "progress.db"
    with progress.operation("first", id="first"):
        pass
    assert runtime.force_flush(60.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(300):
            with progress.operation("job", id=str(number)):
                pass
            if number % 20 == 0:
                runtime._ticker.drain(60.0)
        runtime._ticker.drain(60.0)
        assert runtime.force_flush(0.05) is False
        assert read_counter(runtime, semconv.OPERATIONS_FINISHED)["job", "completed"] == 300
        assert list_segments(path) != []
        other.execute("ROLLBACK")
    assert runtime.force_flush(60.0)
    assert count_ended(path) == 301
    assert list_segments(path) == []
    assert read_counter(runtime, semconv.EVENTS_DROPPED) == {}


def test_shutdown_with_a_locked_journal_leaves_the_ends_to_the_next_process(
    tmp_path: Path, small_limits: None
) -> None:
    """The same program finds them, too, once it is configured again."""
    del small_limits
    path = tmp_path / "progress.db"
    store = f"sqlite:///{path}"
    with progress.configure(store=store, console=False):
        pass
    with closing(open_journal(store)) as journal:
        journal.write(make_change_set(instance=instance("other")))
    runtime = progress.configure(store=store, console=False)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(100):
            with progress.operation("job", id=str(number)):
                pass
        assert runtime.shutdown(0.2) is False
        assert list_segments(path) != []
        other.execute("ROLLBACK")
    with closing(open_journal(store)) as journal:
        while list_segments(path):
            journal.write(make_change_set(instance=instance("other")))
    assert count_ended(path) == 100


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="fork and signals")
def test_ends_of_a_killed_process_are_delivered_by_the_next_one(tmp_path: Path) -> None:
    """It is killed while another program holds the lock of the journal, after a fork."""
    path = tmp_path / "progress.db"
    program = f"""
import os, sqlite3, signal, time
import otel_progress as progress
runtime = progress.configure(store="sqlite:///{path}", console=False)
with progress.operation("first", id="first"): pass
assert runtime.force_flush(60)
other = sqlite3.connect({str(path)!r}, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
def work(name):
    for number in range(200):
        with progress.operation("job", id=f"{{name}}-{{number}}"): pass
    runtime._ticker.drain(60)
    runtime.shutdown(0.2)
pid = os.fork()
work("child" if pid == 0 else "parent")
if pid: os.waitpid(pid, 0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert count_ended(path) == 1
    assert len(list_segments(path)) >= 2
    store = f"sqlite:///{path}"
    with progress.configure(store=store, console=False) as runtime:
        deadline = time.monotonic() + 60.0
        while list_segments(path) and time.monotonic() < deadline:
            with progress.operation("next"):
                pass
            assert runtime.force_flush(60.0)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT operation_id FROM operations WHERE operation_type = 'job' AND status = 'completed'"
        )
        found = {operation_id for (operation_id,) in rows}
    assert found == {f"{name}-{number}" for name in ("child", "parent") for number in range(200)}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_a_hundred_thousand_ends_at_once_lose_nothing(tmp_path: Path, threads: int) -> None:
    """The memory of ended operations stays below that of 100,000 of them."""
    path, count = tmp_path / "progress.db", 120_000 // threads
    with progress.configure(store=f"sqlite:///{path}", console=False) as runtime:
        operations = [
            [progress.operation("job", id=f"{name}-{number}", total=10).start() for number in range(count)]
            for name in range(threads)
        ]

        def work(mine: list[Any]) -> None:
            for op in mine:
                op.complete()

        workers = [threading.Thread(target=work, args=(mine,)) for mine in operations]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert runtime.force_flush(600.0)
        finished = read_counter(runtime, semconv.OPERATIONS_FINISHED)
    assert count_ended(path) == count * threads
    assert finished["job", "completed"] == count * threads
