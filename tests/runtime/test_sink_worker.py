"""Sink workers and the ticker: threads, queues, retries and pauses."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.diagnostics import OUTAGE_LOG_INTERVAL_S, OutageLog, internal_error_counts
from otel_progress.errors import JournalError
from otel_progress.journal import open_journal
from otel_progress.protocols import ChangeSet
from otel_progress.runtime import sink_worker
from otel_progress.runtime.sink_worker import PendingLimits, SinkWorker
from otel_progress.runtime.ticker import MAX_PAUSE_S, Ticker
from otel_progress.testing import Recorder, recording, wait_until
from tests.support.factories import ended, event, make_change_set, make_trajectory_entry, snapshot


class Sink:
    """Sink that stores change sets, and that fails or waits on request."""

    def __init__(self) -> None:
        self.change_sets: list[ChangeSet] = []
        self.failing = False
        self.error: Exception = OSError("no room")
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.closed = False

    def write(self, change_set: ChangeSet) -> None:
        """Store a change set, or reject it."""
        self.entered.set()
        self.gate.wait()
        if self.failing:
            raise self.error
        self.change_sets.append(change_set)

    def close(self) -> None:
        """Record the call."""
        self.closed = True

    @property
    def paths(self) -> list[str]:
        """Paths of all snapshots, in the order of their writes."""
        return [snapshot.path for change_set in self.change_sets for snapshot in change_set.snapshots]


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Sink whose gate is opened after the test."""
    sink = Sink()
    yield sink
    sink.gate.set()


def test_sink_worker_reports_each_written_change_set(sink: Sink) -> None:
    """``on_written`` receives the change set with all its records."""
    written: list[ChangeSet] = []
    worker = SinkWorker("reporting", sink, on_written=written.append)
    worker.submit(make_change_set(trajectories=[make_trajectory_entry("a")]))
    assert worker.close(60.0)
    assert [entry.run for change_set in written for entry in change_set.trajectories] == ["a"]


def test_sink_worker_beyond_its_limits_drops_and_counts_the_oldest(sink: Sink) -> None:
    """The limits apply to levels, events and evictions."""
    dropped: list[int] = []
    worker = SinkWorker(
        "sink",
        sink,
        on_dropped=lambda name, count: dropped.append(count),
        limits=PendingLimits(snapshots=10, events=5),
    )
    sink.gate.clear()
    worker.submit(make_change_set())
    assert sink.entered.wait(60.0)
    worker.submit(
        make_change_set(
            *(snapshot(f"a:{number}") for number in range(12)), events=[event(number) for number in range(6)]
        )
    )
    worker.submit(make_change_set(evicted=[("run-1", f"b:{n}") for n in range(30)]))
    sink.gate.set()
    assert worker.flush(60.0)
    assert sink.paths == [f"a:{n}" for n in range(2, 12)]
    assert len(sink.change_sets[-1].events) == 5
    assert len(sink.change_sets[-1].evicted) == 10
    assert sum(dropped) == 3
    assert worker.close(60.0)


def test_sink_worker_after_recovery_writes_rejected_records(sink: Sink) -> None:
    """A rejected change set is merged with newer ones, and recovery is reported once."""
    errors: list[str] = []
    recovered = threading.Event()
    worker = SinkWorker("sink", sink, on_error=errors.append, on_recovered=recovered.set)
    sink.failing = True
    worker.submit(
        make_change_set(
            snapshot("a:1", 1), snapshot("a:2", 2), events=[event(1)], items={("o", "a", "failed"): 1}
        )
    )
    assert worker.flush(60.0) is False
    worker.submit(make_change_set(snapshot("a:1", 3), events=[event(2)], items={("o", "a", "failed"): 1}))
    assert worker.flush(60.0) is False
    sink.failing = False
    assert worker.flush(60.0), "a flush writes the rejected change set again"
    assert recovered.wait(60.0)
    assert sorted(
        (snapshot.path, snapshot.sequence)
        for change_set in sink.change_sets
        for snapshot in change_set.snapshots
    ) == [
        ("a:1", 3),
        ("a:2", 2),
    ]
    assert [event.number for change_set in sink.change_sets for event in change_set.events] == [1, 2]
    assert sum(units for change_set in sink.change_sets for units in change_set.items.values()) == 2
    assert set(errors) == {"sink"}
    assert worker.close(60.0)
    assert sink.closed


@pytest.mark.parametrize("end", [SinkWorker.flush, SinkWorker.close], ids=["flush", "close"])
def test_flush_of_temporarily_rejecting_sink_retries_until_written(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, end: Callable[[SinkWorker, float], bool]
) -> None:
    """A journal that another process has locked rejects temporarily."""
    errors = [JournalError("locked") for _ in range(3)]
    for error in errors:
        error.is_temporary = True
    write = sink.write

    def reject(change_set: ChangeSet) -> None:
        if errors:
            raise errors.pop()
        write(change_set)

    monkeypatch.setattr(sink, "write", reject)
    worker = SinkWorker("sink", sink, retry_s=0.001)
    worker.submit(make_change_set(ended()))
    assert end(worker, 60.0)
    assert sink.paths == [""]
    assert worker.close(60.0)


def test_flush_of_permanently_locked_sink_returns_false_after_timeout(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change set is written by the next flush."""

    def reject(change_set: ChangeSet) -> None:
        del change_set
        error = JournalError("locked")
        error.is_temporary = True
        raise error

    monkeypatch.setattr(sink, "write", reject)
    worker = SinkWorker("sink", sink)
    worker.submit(make_change_set(ended()))
    assert worker.flush(0.2) is False
    monkeypatch.undo()
    assert worker.close(60.0)
    assert sink.paths == [""]


def test_close_after_recovery_writes_rejected_change_set(sink: Sink) -> None:
    """Later change sets are ignored."""
    worker = SinkWorker("sink", sink)
    sink.failing = True
    worker.submit(make_change_set(ended()))
    assert worker.flush(60.0) is False
    sink.failing = False
    assert worker.close(60.0)
    assert sink.paths == [""]
    worker.submit(make_change_set(snapshot("late:1")))
    assert sink.paths == [""]


def test_close_of_unused_sink_worker_closes_the_sink(sink: Sink) -> None:
    """A worker without a change set has no thread."""
    worker = SinkWorker("sink", sink)
    assert worker.close(60.0)
    assert sink.closed


class Impatient(SinkWorker):
    """Worker that closes after a moment, and records its time limit."""

    time_limit_s = 0.0

    def close(self, timeout: float) -> bool:
        """Close with a short time limit."""
        self.time_limit_s = timeout
        return super().close(0.01)


def test_hanging_sink_does_not_delay_ticks_and_other_sinks(lenient: Recorder, sink: Sink) -> None:
    """A shutdown waits for it no longer than its time limit."""
    other = Sink()
    hung = Impatient("hung", sink)
    lenient.runtime._sink_workers += [hung, SinkWorker("other", other)]
    sink.gate.clear()
    with progress.operation("o", id="o", total=100) as op:
        for _ in range(20):
            op.increment()
            lenient.tick()
            assert lenient.runtime._sink_workers[1].flush(60.0)
    assert other.change_sets[-1].snapshots[0].current == 20
    assert lenient.runtime.force_flush(0.05) is False
    assert lenient.runtime.shutdown(timeout=60.0) is False
    assert 0.0 < hung.time_limit_s <= 60.0
    assert other.closed
    assert other.change_sets[-1].snapshots[0].status.value == "completed"
    assert not sink.closed


def test_ticker_pause_counts_processor_time_of_writes_only(
    lenient: Recorder, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time that a write waits for a disk or network does not count."""
    ticker = Ticker(lambda: lenient.runtime._store, [worker := SinkWorker("slow", sink)], interval=0.02)
    first_write = (2.0, 0.02)  # it imports modules, which no other write does
    for used_s, pause_s in (first_write, (0.001, 0.02), (0.09, 0.91)):
        readings = chain([3.0], repeat(3.0 + used_s))
        fake_time = SimpleNamespace(thread_time=readings.__next__, monotonic=time.monotonic)
        monkeypatch.setattr(sink_worker, "time", fake_time)
        worker.submit(make_change_set())
        assert worker.flush(60.0)
        assert ticker.compute_pause(0.0) == pytest.approx(pause_s)
    assert worker.close(60.0)


def test_ticker_pause_after_slow_tick_limits_its_time_share(lenient: Recorder) -> None:
    """After a fast tick the pause is the interval.

    It is never so long that heartbeats are late.
    """
    ticker = Ticker(lambda: lenient.runtime._store, [], interval=0.1)
    assert ticker.compute_pause(0.001) == pytest.approx(0.099)
    assert 0.08 < 0.4 / (0.4 + ticker.compute_pause(0.4)) < 0.1
    assert ticker.compute_pause(100.0) == MAX_PAUSE_S
    assert Ticker(lambda: lenient.runtime._store, [], interval=60.0).compute_pause(1.0) == 59.0


def test_tick_that_waits_for_the_processor_returns_its_processor_time_only(lenient: Recorder) -> None:
    """Otherwise a busy machine makes the pauses ten times as long as the wait."""
    is_released = threading.Event()

    def wait() -> None:
        assert is_released.wait(60.0)

    ticker = Ticker(lambda: lenient.runtime._store, [], interval=0.1, before=wait)
    used_s: list[float] = []
    elapsed_s: list[float] = []

    def tick() -> None:
        started = time.monotonic()
        used_s.append(ticker.tick())
        elapsed_s.append(time.monotonic() - started)

    thread = threading.Thread(target=tick)
    thread.start()
    is_released.wait(0.2)
    is_released.set()
    thread.join(60.0)
    assert used_s[0] < elapsed_s[0]
    assert elapsed_s[0] >= 0.2


def test_ticker_with_rejected_change_set_continues_until_it_is_written() -> None:
    """It retries after the last operation has ended."""
    with recording(ticking=True, tick=0.001, strict=False) as recorder:
        sink = Sink()
        sink.failing = True
        recorder.runtime._sink_workers.append(SinkWorker("sink", sink))
        with progress.operation("o"):
            wait_until(sink.entered.is_set, 60.0)
        recorder.clock.advance(2.0)
        wait_until(lambda: recorder.runtime._store.idle, 60.0)
        sink.failing = False

        def is_written() -> bool:
            recorder.clock.advance(1.0)
            return any(
                snapshot.status.finished
                for change_set in sink.change_sets
                for snapshot in change_set.snapshots
            )

        wait_until(is_written, 60.0)


def test_ticker_without_active_level_sleeps_until_next_start() -> None:
    """While an operation is active, sinks receive heartbeats."""
    with recording(ticking=True, tick=0.001) as recorder:
        sink = Sink()
        recorder.runtime._sink_workers.append(SinkWorker("sink", sink))
        ticker = recorder.runtime._ticker
        assert ticker._thread is None
        for _ in range(3):
            with progress.operation("o"):
                wait_until(lambda: "" in sink.paths, 60.0)
                count = len(sink.change_sets)
                recorder.clock.advance(1.0)
                wait_until(lambda count=count: len(sink.change_sets) > count, 60.0)
            wait_until(lambda: ticker._is_asleep, 60.0)
            sink.change_sets.clear()


def test_sink_with_every_tick_receives_each_change_set(recorder: Recorder) -> None:
    """Other sinks receive only changes and one heartbeat per second."""
    eager, other = Sink(), Sink()
    recorder.runtime._sink_workers += [
        SinkWorker("eager", eager, every_tick=True),
        SinkWorker("other", other),
    ]
    with progress.operation("o"):
        for _ in range(10):
            recorder.clock.advance(0.3)
            recorder.tick()
            assert all(worker.flush(60.0) for worker in recorder.runtime._sink_workers)
    assert (len(eager.change_sets), len(other.change_sets)) == (10, 3)


def test_failing_tick_does_not_end_the_ticker(lenient: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next successful tick collects everything."""
    calls = []

    def fail() -> ChangeSet:
        calls.append(1)
        raise ValueError("broken")

    with tick_in_background(lenient):
        collect = lenient.runtime._store.collect
        monkeypatch.setattr(lenient.runtime._store, "collect", fail)
        with progress.operation("o", id="o"):
            wait_until(lambda: len(calls) > 2, 60.0)
            monkeypatch.setattr(lenient.runtime._store, "collect", collect)
        wait_until(lambda: lenient.runtime._totals.read().counters.get(semconv.OPERATIONS_FINISHED), 60.0)


@contextmanager
def tick_in_background(recorder: Recorder) -> Iterator[None]:
    """Tick every millisecond within the block."""
    ticker = recorder.runtime._ticker
    ticker._interval = 0.001
    ticker.set_background(True)
    yield
    ticker.set_background(False)


def test_drops_of_the_sink_itself_are_reported_once(sink: Sink) -> None:
    """The sink has a total, and the worker reports its growth."""
    reports: list[tuple[str, int]] = []
    worker = SinkWorker("journal", sink, on_dropped=lambda name, count: reports.append((name, count)))
    for dropped in (0, 3, 3, 5):
        sink.dropped = dropped  # type: ignore[attr-defined]
        worker.submit(make_change_set(snapshot()))
        assert worker.flush(60.0)
    assert worker.close(60.0)
    assert reports == [("journal", 3), ("journal", 2)]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let no thread of this package start. The last text of the list is the reason."""
    reasons = ["can't create new thread at interpreter shutdown"]

    start: Callable[[threading.Thread], None] = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not thread.name.startswith("otel-progress"):
            return start(thread)
        raise RuntimeError(reasons[-1])

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return reasons


def test_flush_without_a_thread_writes_pending_changes(sink: Sink, no_threads: list[str]) -> None:
    """CPython 3.12 starts no thread at exit, which is not an internal error."""
    del no_threads
    before = internal_error_counts["sink quiet"]
    worker = SinkWorker("quiet", sink)
    worker.submit(make_change_set(snapshot("a:1", 5)))
    worker.submit(make_change_set(snapshot("a:1", 6), snapshot("a:2")))
    assert worker.has_backlog
    assert sink.paths == []

    assert worker.close(60.0)

    assert sink.paths == ["a:1", "a:2"]
    assert sink.closed
    assert not worker.has_backlog
    assert internal_error_counts["sink quiet"] == before


def test_flush_without_a_thread_of_failing_sink_returns_false(sink: Sink, no_threads: list[str]) -> None:
    """A thread that the system does not provide is an internal error."""
    no_threads.append("can't start new thread")
    sink.failing = True
    worker = SinkWorker("crowded", sink)
    before = internal_error_counts["sink crowded"]
    worker.submit(make_change_set(snapshot("a:1", 5)))
    assert internal_error_counts["sink crowded"] == before + 1

    assert not worker.flush(60.0)
    sink.failing = False
    assert worker.flush(60.0)
    assert sink.paths == ["a:1"]


@pytest.mark.process
def test_operation_in_an_exit_handler_is_written_to_the_journal(tmp_path: Path) -> None:
    """It starts and ends while the interpreter exits."""
    script = f"""
import atexit, otel_progress as progress
runtime = progress.configure(store="sqlite:///{tmp_path / "late.db"}", console=False)
atexit.unregister(runtime.shutdown)
atexit.register(runtime.shutdown, 60.0)  # a disk may be slow
def late():
    with progress.operation("cleanup", id="late", total=3) as op:
        op.increment(3)
atexit.register(late)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    journal = open_journal(f"sqlite:///{tmp_path / 'late.db'}", read_only=True)
    operation = journal.get("late")
    journal.close()
    assert operation is not None
    assert (operation.status.value, operation.root.current) == ("completed", 3)


def test_outage_log_logs_later_outages_rate_limited(caplog: pytest.LogCaptureFixture) -> None:
    """Errors within an outage are counted, and so are outages that follow too early."""
    now = 100.0
    outages = OutageLog("ticker", lambda: now)
    before = internal_error_counts["ticker"]
    for _ in range(3):
        outages.report_error("first", error=None)
    outages.report_success()
    now += OUTAGE_LOG_INTERVAL_S / 2
    outages.report_error("early", error=None)
    outages.report_success()
    now += OUTAGE_LOG_INTERVAL_S / 2
    outages.report_error("second", error=None)
    outages.report_error("second", error=None)
    outages.report_success()
    outages.report_error("lasting", error=None)
    now += OUTAGE_LOG_INTERVAL_S
    outages.report_error("lasting", error=None)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["first", "second", "lasting"]
    assert "1 shorter outages before it were not logged" in caplog.text
    assert internal_error_counts["ticker"] - before == 8


def test_sink_worker_reports_lost_changes(sink: Sink) -> None:
    """A journal that was truncated gets everything again."""
    lost = threading.Event()
    error = JournalError("truncated")
    error.has_lost_changes = True
    sink.failing = True
    sink.error = error
    worker = SinkWorker("sink", sink, on_lost=lost.set)
    worker.submit(make_change_set(snapshot("a:1", 1)))
    assert worker.flush(60.0) is False
    assert lost.is_set()
    sink.failing = False
    assert worker.close(60.0)
