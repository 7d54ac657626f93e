"""Lanes and ticks: each sink has its own thread and a bounded mailbox; what one does is nobody else's business."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.diagnostics import internal_error_counts
from otel_progress.errors import JournalError
from otel_progress.journal import open_journal
from otel_progress.protocols import ChangeSet
from otel_progress.runtime import sink_worker as lanes
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.runtime.ticker import Ticker
from otel_progress.testing import Recorder, recording, wait_until
from tests.support.factories import batch, ended, event, lesson, snapshot


class Sink:
    """Keeps what it is given; fails or waits when told to."""

    def __init__(self) -> None:
        self.batches: list[ChangeSet] = []
        self.failing = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.closed = False

    def write(self, one: ChangeSet) -> None:
        """Take a batch, or refuse it."""
        self.entered.set()
        self.gate.wait()
        if self.failing:
            raise OSError("no room")
        self.batches.append(one)

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    @property
    def paths(self) -> list[str]:
        """Paths of all snapshots, in the order they came."""
        return [one.path for taken in self.batches for one in taken.snapshots]


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A sink whose gate is open in the end."""
    made = Sink()
    yield made
    made.gate.set()


def test_what_a_written_batch_had_is_told(sink: Sink) -> None:
    """Whoever listens to a lane hears of each batch that was written, with what was in it."""
    written: list[ChangeSet] = []
    lane = SinkWorker("heard", sink, on_written=written.append)
    lane.submit(batch(trajectories=[lesson("a")]))
    assert lane.close(60.0)
    assert [one.run for told in written for one in told.trajectories] == ["a"]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, sink: Sink) -> None:
    """Beyond the bound the oldest are let go and counted, for levels, events and evictions."""
    monkeypatch.setattr(lanes, "MAX_SNAPSHOTS", 10)
    monkeypatch.setattr(lanes, "MAX_EVENTS", 5)
    dropped: list[int] = []
    lane = SinkWorker("sink", sink, on_dropped=lambda name, count: dropped.append(count))
    sink.gate.clear()
    lane.submit(batch())
    assert sink.entered.wait(60.0)
    lane.submit(batch(*(snapshot(f"a:{n}") for n in range(12)), events=[event(n) for n in range(6)]))
    lane.submit(batch(evicted=[("run-1", f"b:{n}") for n in range(30)]))
    sink.gate.set()
    assert lane.flush(60.0)
    assert sink.paths == [f"a:{n}" for n in range(2, 12)]
    assert len(sink.batches[-1].events) == 5
    assert len(sink.batches[-1].evicted) == 10
    assert sum(dropped) == 3
    assert lane.close(60.0)


def test_a_sink_that_fails_and_recovers_gets_everything(sink: Sink) -> None:
    """What was refused comes again, merged with what is newer, and recovery is told once."""
    errors: list[str] = []
    recovered = threading.Event()
    lane = SinkWorker("sink", sink, on_error=errors.append, on_recovered=recovered.set)
    sink.failing = True
    lane.submit(
        batch(snapshot("a:1", 1), snapshot("a:2", 2), events=[event(1)], items={("o", "a", "failed"): 1})
    )
    assert lane.flush(60.0) is False
    lane.submit(batch(snapshot("a:1", 3), events=[event(2)], items={("o", "a", "failed"): 1}))
    assert lane.flush(60.0) is False
    sink.failing = False
    assert lane.flush(60.0), "flushing tries again what was refused"
    assert recovered.wait(60.0)
    assert sorted((one.path, one.sequence) for taken in sink.batches for one in taken.snapshots) == [
        ("a:1", 3),
        ("a:2", 2),
    ]
    assert [one.number for taken in sink.batches for one in taken.events] == [1, 2]
    assert sum(units for taken in sink.batches for units in taken.items.values()) == 2
    assert set(errors) == {"sink"}
    assert lane.close(60.0)
    assert sink.closed


@pytest.mark.parametrize("end", [SinkWorker.flush, SinkWorker.close], ids=["flush", "close"])
def test_flush_waits_for_a_lock(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, end: Callable[[SinkWorker, float], bool]
) -> None:
    """A flush tries again while the sink refuses a batch temporarily, as a journal does that another process has locked."""
    monkeypatch.setattr(lanes, "RETRY_S", 0.001)
    refusals = [JournalError("locked"), JournalError("locked"), JournalError("locked")]
    for refusal in refusals:
        refusal.is_temporary = True
    write = sink.write

    def refuse(one: ChangeSet) -> None:
        if refusals:
            raise refusals.pop()
        write(one)

    monkeypatch.setattr(sink, "write", refuse)
    lane = SinkWorker("sink", sink)
    lane.submit(batch(ended()))
    assert end(lane, 60.0)
    assert sink.paths == [""]
    assert lane.close(60.0)


def test_flush_of_a_locked_sink_ends(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush returns False at the end of its time while the sink still refuses temporarily."""

    def refuse(one: ChangeSet) -> None:
        del one
        error = JournalError("locked")
        error.is_temporary = True
        raise error

    monkeypatch.setattr(sink, "write", refuse)
    lane = SinkWorker("sink", sink)
    lane.submit(batch(ended()))
    assert lane.flush(0.2) is False
    monkeypatch.undo()
    assert lane.close(60.0)
    assert sink.paths == [""]


def test_closing_tries_once_more(sink: Sink) -> None:
    """What a sink refused before it recovered is written when the lane is closed."""
    lane = SinkWorker("sink", sink)
    sink.failing = True
    lane.submit(batch(ended()))
    assert lane.flush(60.0) is False
    sink.failing = False
    assert lane.close(60.0)
    assert sink.paths == [""]
    lane.submit(batch(snapshot("late:1")))
    assert sink.paths == [""]


def test_a_lane_without_work_closes_its_sink(sink: Sink) -> None:
    """A lane that never had a batch has no thread, and closes all the same."""
    lane = SinkWorker("sink", sink)
    assert lane.close(60.0)
    assert sink.closed


class Impatient(SinkWorker):
    """Waits for its sink but a moment in the end, whatever it is allowed; remembers what that was."""

    allowed = 0.0

    def close(self, timeout: float) -> bool:
        """Give up soon."""
        self.allowed = timeout
        return super().close(0.01)


def test_a_sink_that_hangs_holds_up_nobody(lenient: Recorder, sink: Sink) -> None:
    """Beside a hung sink another one gets every tick and the end, and the end waits no longer than allowed."""
    other = Sink()
    hung = Impatient("hung", sink)
    lenient.runtime._sink_workers += [hung, SinkWorker("other", other)]
    sink.gate.clear()
    with progress.operation("o", id="o", total=100) as op:
        for _ in range(20):
            op.increment()
            lenient.tick()
            assert lenient.runtime._sink_workers[1].flush(60.0)
    assert other.batches[-1].snapshots[0].current == 20
    assert lenient.runtime.force_flush(0.05) is False
    assert lenient.runtime.shutdown(timeout=60.0) is False
    assert 0.0 < hung.allowed <= 60.0
    assert other.closed
    assert other.batches[-1].snapshots[0].status.value == "completed"
    assert not sink.closed


def test_a_slow_sink_does_not_slow_the_ticks(
    lenient: Recorder, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what a write takes of the processor, not how long it waits for a disk or a network, makes the pauses of ticks longer."""
    ticker = Ticker(lambda: lenient.runtime._store, [lane := SinkWorker("slow", sink)], interval=0.02)
    for used, pause in ((0.001, 0.02), (0.09, 0.91)):
        only = SimpleNamespace(thread_time=iter([3.0, 3.0 + used]).__next__, monotonic=time.monotonic)
        monkeypatch.setattr(lanes, "time", only)
        lane.submit(batch())
        assert lane.flush(60.0)
        assert ticker.pause(0.0) == pytest.approx(pause)
    assert lane.close(60.0)


def test_ticks_stretch_with_what_they_cost(lenient: Recorder) -> None:
    """A tick that took long is followed by a pause that makes it less than a tenth of the time; a short one by the interval."""
    ticker = Ticker(lambda: lenient.runtime._store, [], interval=0.1)
    assert ticker.pause(0.001) == pytest.approx(0.099)
    assert 0.08 < 0.5 / (0.5 + ticker.pause(0.5)) < 0.1


def test_a_refused_batch_keeps_the_ticks_going() -> None:
    """After the last operation has ended, what a sink refused is tried again by itself until it is taken."""
    with recording(ticking=True, tick=0.001, strict=False) as recorder:
        sink = Sink()
        sink.failing = True
        recorder.runtime._sink_workers.append(SinkWorker("sink", sink))
        with progress.operation("o"):
            wait_until(sink.entered.is_set, 60.0)
        recorder.clock.advance(2.0)
        wait_until(lambda: recorder.runtime._store.idle, 60.0)
        sink.failing = False

        def taken() -> bool:
            recorder.clock.advance(1.0)
            return any(one.status.finished for made in sink.batches for one in made.snapshots)

        wait_until(taken, 60.0)


def test_the_ticker_sleeps_and_wakes() -> None:
    """Nothing is collected while nothing runs; what begins wakes the ticks, and heartbeats go on while it runs."""
    with recording(ticking=True, tick=0.001) as recorder:
        sink = Sink()
        recorder.runtime._sink_workers.append(SinkWorker("sink", sink))
        ticker = recorder.runtime._ticker
        assert ticker._thread is None
        for _ in range(3):
            with progress.operation("o"):
                wait_until(lambda: "" in sink.paths, 60.0)
                count = len(sink.batches)
                recorder.clock.advance(1.0)
                wait_until(lambda count=count: len(sink.batches) > count, 60.0)
            wait_until(lambda: ticker._asleep, 60.0)
            sink.batches.clear()
        count = len(recorder.runtime._totals.read().distributions)
        assert count == len(recorder.runtime._totals.read().distributions)


def test_a_sink_that_wants_every_tick(recorder: Recorder) -> None:
    """The console's lane gets a batch every tick, others only news and a heartbeat a second."""
    eager, other = Sink(), Sink()
    recorder.runtime._sink_workers += [
        SinkWorker("eager", eager, every_tick=True),
        SinkWorker("other", other),
    ]
    with progress.operation("o"):
        for _ in range(10):
            recorder.clock.advance(0.3)
            recorder.tick()
            assert all(lane.flush(60.0) for lane in recorder.runtime._sink_workers)
    assert (len(eager.batches), len(other.batches)) == (10, 3)


def test_a_tick_that_fails_is_counted(lenient: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside of a tick ends neither the ticks nor the work."""
    calls = []

    def fail() -> ChangeSet:
        calls.append(1)
        raise ValueError("broken")

    with recording_ticks(lenient):
        collect = lenient.runtime._store.collect
        monkeypatch.setattr(lenient.runtime._store, "collect", fail)
        with progress.operation("o", id="o"):
            wait_until(lambda: len(calls) > 2, 60.0)
            monkeypatch.setattr(lenient.runtime._store, "collect", collect)
        wait_until(lambda: lenient.runtime._totals.read().counters.get(semconv.OPERATIONS_FINISHED), 60.0)


def recording_ticks(recorder: Recorder) -> Recorder_:
    """Let the recorder's ticks run in the background."""
    return Recorder_(recorder)


class Recorder_:  # noqa: N801 - a context of this module
    """Ticks every millisecond within the block."""

    def __init__(self, recorder: Recorder) -> None:
        self._ticker = recorder.runtime._ticker

    def __enter__(self) -> None:
        self._ticker._interval = 0.001
        self._ticker.set_background(True)

    def __exit__(self, *_: object) -> None:
        self._ticker.set_background(False)


def test_what_a_sink_lets_go_by_itself_is_counted(sink: Sink) -> None:
    """A sink with a bound of its own says how much it dropped in all; each write tells what has come since."""
    told: list[tuple[str, int]] = []
    lane = SinkWorker("journal", sink, on_dropped=lambda name, count: told.append((name, count)))
    for dropped in (0, 3, 3, 5):
        sink.dropped = dropped  # type: ignore[attr-defined]
        lane.submit(batch(snapshot()))
        assert lane.flush(60.0)
    assert lane.close(60.0)
    assert told == [("journal", 3), ("journal", 2)]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No thread of this package can be started; the list's last text is the reason."""
    reasons = ["can't create new thread at interpreter shutdown"]

    start: Callable[[threading.Thread], None] = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not thread.name.startswith("otel-progress"):  # whose it is, it has nothing to do with this test
            return start(thread)
        raise RuntimeError(reasons[-1])

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return reasons


def test_without_a_thread_the_flush_writes(sink: Sink, no_threads: list[str]) -> None:
    """While exit handlers run CPython 3.12 starts no thread: what waits is written by whoever flushes, and that is no trouble."""
    del no_threads
    before = internal_error_counts["sink quiet"]
    lane = SinkWorker("quiet", sink)
    lane.submit(batch(snapshot("a:1", 5)))
    lane.submit(batch(snapshot("a:1", 6), snapshot("a:2")))
    assert lane.has_backlog
    assert sink.paths == []

    assert lane.close(60.0)

    assert sink.paths == ["a:1", "a:2"]
    assert sink.closed
    assert not lane.has_backlog
    assert internal_error_counts["sink quiet"] == before


def test_without_a_thread_a_failing_sink_is_told(sink: Sink, no_threads: list[str]) -> None:
    """A sink that refuses what a flush writes makes the flush say no; too many threads are a trouble of the place."""
    no_threads.append("can't start new thread")
    sink.failing = True
    lane = SinkWorker("crowded", sink)
    before = internal_error_counts["sink crowded"]
    lane.submit(batch(snapshot("a:1", 5)))
    assert internal_error_counts["sink crowded"] == before + 1

    assert not lane.flush(60.0)
    sink.failing = False
    assert lane.flush(60.0)
    assert sink.paths == ["a:1"]


@pytest.mark.process
def test_work_in_an_exit_handler_is_kept(tmp_path: Path) -> None:
    """An operation that begins and ends while the interpreter exits is in the journal, and nothing is complained about."""
    script = f"""
import atexit, otel_progress as progress
runtime = progress.configure(store="sqlite:///{tmp_path / "late.db"}", console=False)
atexit.unregister(runtime.shutdown)
atexit.register(runtime.shutdown, 60.0)  # a disk may be slow: it is not the time that is tested
def late():
    with progress.operation("cleanup", id="late", total=3) as op:
        op.increment(3)
atexit.register(late)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    journal = open_journal(f"sqlite:///{tmp_path / 'late.db'}", read_only=True)
    kept = journal.get("late")
    journal.close()
    assert kept is not None
    assert (kept.status.value, kept.root.current) == ("completed", 3)
