"""One reader over the live store and the journal, and what comes to a worker through the journal: real files, real processes."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from factories import WALL, batch, event, snapshot
from otel_progress import Status
from otel_progress.journal import open_journal
from otel_progress.observations import BatchInfo, LogRecord, ResourceSample, ResourceUse
from otel_progress.protocols import Controller, Reader
from otel_progress.runtime import lane as lanes
from otel_progress.runtime.lane import Lane, Waiting
from otel_progress.testing import FakeClock, Recorder, recording, wait_until

OTHER = """
import sys
import otel_progress as progress
with progress.configure(store=sys.argv[1], console=False, otlp=False, tick=0.01) as runtime:
    with progress.operation("elsewhere", id="done", total=1) as op:
        op.increment()
    with progress.operation("elsewhere", id=sys.argv[2], total=3) as op:
        op.item("a", outcome="failed", error="no")
        runtime.force_flush()
        print("ready", flush=True)
        sys.stdin.readline()
        op.increment()
        runtime.force_flush()
        print(op.cancel_requested, runtime.store.get(sys.argv[2]).cancel_requested_at is not None, flush=True)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a journal is to be."""
    return f"sqlite:///{tmp_path}/p.db"


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    """Record with a journal."""
    with recording(store=url, clock=FakeClock(wall=WALL)) as made:
        yield made


class Other:
    """A worker in a process of its own, which waits within an operation."""

    def __init__(self, url: str, id_: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OTHER, url, id_],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        assert self.read() == "ready"

    def read(self) -> str:
        """Return its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> str:
        """Let it end; return what it says of requests."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Wait for its end."""
        self.process.communicate(timeout=30)


@pytest.fixture
def other(url: str) -> Iterator[Other]:
    """A worker elsewhere that runs ``theirs``."""
    with closing(Other(url, "theirs")) as made:
        yield made


def test_it_is_a_reader_and_a_controller(recorder: Recorder) -> None:
    """It has both protocols."""
    assert isinstance(recorder.runtime.reader, Reader)
    assert isinstance(recorder.runtime.reader, Controller)


def test_own_and_other_processes(recorder: Recorder, other: Other) -> None:
    """Active operations and history have what this process and the others do, each run once, and this one's as of now."""
    reader = recorder.runtime.reader
    with progress.operation("here", id="mine", total=2) as op:
        with progress.operation("here", id="over"):
            pass
        assert recorder.runtime.force_flush()
        op.increment()
        active = {one.operation_id: one for one in reader.active()}
        assert set(active) == {"mine", "theirs"}
        assert active["mine"].root.current == 1  # the journal has 0
        assert [one.operation_id for one in reader.history()].count("over") == 1
        assert {one.operation_id for one in reader.history()} == {"over", "done"}
        assert [one.operation_id for one in reader.history("elsewhere")] == ["done"]
        assert reader.history(limit=0) == []
        theirs = reader.get("theirs")
        assert theirs is not None
        assert theirs.root.failed == 1
        assert [one.name for one in reader.events("theirs")] == ["a"]
    other.go_on()


def test_pages_of_history(recorder: Recorder) -> None:
    """Pages follow each other without a gap or a double, whoever keeps what."""
    for number in range(7):
        recorder.clock.advance(1.0)
        with progress.operation("o", id=str(number)):
            pass
        if number == 3:
            assert recorder.runtime.force_flush()
    found: list[str] = []
    before = None
    while page := recorder.runtime.reader.history(limit=3, before=before):
        found += [one.operation_id for one in page]
        before = (page[-1].root.ended_at or 0.0, page[-1].run)
    assert found == ["6", "5", "4", "3", "2", "1", "0"]


def test_the_newest_run_counts(recorder: Recorder, url: str) -> None:
    """Of two runs of one id the one that began last is told, with its events and no others."""
    with progress.operation("o", id="x") as op:
        op.item("first")
    assert recorder.runtime.force_flush()
    recorder.clock.advance(10.0)
    with progress.operation("o", id="x") as op:
        op.item("second")
        assert [one.name for one in recorder.runtime.get_events("x")] == ["second"]
    newer = snapshot(operation_id="x", run="elsewhere", started_at=WALL + 100.0)
    with closing(open_journal(url)) as journal:
        journal.write(batch(newer, events=(event(1, operation_id="x", run="elsewhere", name="third"),), at=WALL + 100.0))
    assert recorder.runtime.get_operation("x").run == "elsewhere"  # type: ignore[union-attr]
    assert [one.name for one in recorder.runtime.get_events("x")] == ["third"]


def test_logs_of_both(url: str) -> None:
    """The journal has the older records, memory those that are not written yet; together they are complete and in order."""
    logging.getLogger().setLevel(logging.INFO)
    with recording(store=url, capture_logs=True) as recorder, progress.operation("o", id="o"):
        for number in range(5):
            logging.getLogger("x").info("written %d", number)
        assert recorder.runtime.force_flush()
        logging.getLogger("x").info("new")
        found = recorder.runtime.reader.logs("o")
        assert [record.number for record in found] == [1, 2, 3, 4, 5, 6]
        assert [record.message for record in recorder.runtime.reader.logs("o", after=4)] == ["written 4", "new"]
        with closing(open_journal(url, read_only=True)) as journal:
            assert [record.message for record in journal.logs("o")] == [f"written {number}" for number in range(5)]


def test_samples_of_both(url: str) -> None:
    """Samples are told once each, oldest first."""
    pytest.importorskip("psutil")
    with recording(store=url, resources=True) as recorder, progress.operation("o", id="o"):
        for _ in range(4):
            recorder.clock.advance(1.0)
            assert recorder.runtime.force_flush()
        found = recorder.runtime.reader.resources("o")
        assert [sample.at for sample in found] == sorted({sample.at for sample in found})
        assert len(found) == 3


def test_watching_both(recorder: Recorder, other: Other) -> None:
    """A watch tells first all that is active anywhere, then changes of both, and ends without leaving anything open."""
    with progress.operation("here", id="mine", total=2) as op:
        assert recorder.runtime.force_flush()
        watch: Any = recorder.runtime.reader.watch(0.01)
        assert {one.operation_id for one in next(watch)} == {"mine", "theirs"}
        op.increment()
        assert [one.operation_id for one in next(watch)] == ["mine"]
        other.go_on()
        ended = (one for found in itertools.islice(watch, 1000) for one in found if one.operation_id == "theirs")
        assert any(one.status is Status.COMPLETED for one in ended)
        watch.close()


def test_a_cancel_reaches_another_process(recorder: Recorder, other: Other) -> None:
    """A request goes to the live run of this process, or through the journal to the process that works; else to nobody."""
    with progress.operation("here", id="mine"):
        assert recorder.runtime.request_cancel("mine", "enough")
        assert recorder.operation("mine").cancel_requested_at is not None
    assert not recorder.runtime.request_cancel("nobody", "enough")
    assert recorder.runtime.request_cancel("theirs", "enough")
    assert other.go_on() == "True True"


def test_a_request_for_an_earlier_run_is_none_of_the_next(recorder: Recorder) -> None:
    """What was asked of a run that has ended does not stop the run that took its id."""
    from otel_progress.observations import CancelRequest

    with progress.operation("o", id="x"):
        recorder.runtime.hear([CancelRequest("an-earlier-run", "x", "enough", WALL)])
        assert recorder.operation("x").cancel_requested_at is None
        recorder.runtime.hear([CancelRequest(recorder.operation("x").run, "x", "enough", WALL)])
        assert recorder.operation("x").cancel_requested_at is not None


def test_deleting(recorder: Recorder) -> None:
    """Ended runs go from memory and journal, and are counted once; what runs stays."""
    for _ in range(2):
        with progress.operation("o", id="x"):
            pass
    assert recorder.runtime.force_flush()
    with progress.operation("o", id="x"):
        assert recorder.runtime.reader.delete("x") == 2
        assert recorder.runtime.get_history() == []
        assert recorder.runtime.get_operation("x") is not None


def test_a_journal_that_is_gone(recorder: Recorder, tmp_path: Path) -> None:
    """What is live is told when the journal cannot be read."""
    with progress.operation("o", id="x"):
        assert recorder.runtime.force_flush()
        for file in tmp_path.iterdir():
            file.write_bytes(b"no database")
        reader = recorder.runtime.reader
        assert [one.operation_id for one in reader.active()] == ["x"]
        assert [one.operation_id for one in next(iter(reader.watch(0.01)))] == ["x"]
        assert reader.logs("x") == ()
        for file in tmp_path.iterdir():
            file.unlink()


# --- lanes --------------------------------------------------------------------------------------------------------


def record(number: int) -> LogRecord:
    """Return a log record."""
    return LogRecord("friday-42", "setlist", "run-1", "", number, WALL, 20, "INFO", "x", f"text {number}")


def sample(clock: float) -> ResourceSample:
    """Return a sample."""
    return ResourceSample(WALL, clock, 0.5, 1000)


def use(samples: int) -> ResourceUse:
    """Return a use of resources."""
    return ResourceUse(sample(samples), samples, 0.5, 0.5, 1000.0, 1000)


def test_waiting_batches_are_merged() -> None:
    """Log records add up in order, the newest sample and use win, declarations of one batch come together."""
    waiting = Waiting()
    info = BatchInfo("b", "thumbnails", "batch", 500, WALL, None, 1)
    closed = BatchInfo("b", "thumbnails", "batch", None, WALL, WALL + 9.0, 2)
    waiting.add(batch(logs=[record(1)], sample=sample(1.0), resources={"a": use(1), "b": use(1)}, batches=(info,)))
    waiting.add(batch(logs=[record(2)], sample=sample(2.0), resources={"a": use(2)}, batches=(closed,)))
    waiting.add(batch(logs=[record(3)]))
    taken = waiting.take()
    assert taken is not None
    assert [one.number for one in taken.logs] == [1, 2, 3]
    assert taken.sample == sample(2.0)
    assert taken.resources == {"a": use(2), "b": use(1)}
    (merged,) = taken.batches
    assert (merged.total, merged.ended_at) == (500, WALL + 9.0)
    waiting.add(batch())
    empty = waiting.take()
    assert empty is not None
    assert (list(empty.logs), empty.sample, dict(empty.resources), tuple(empty.batches)) == ([], None, {}, ())


def test_waiting_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest records make room, and are counted."""
    monkeypatch.setattr(lanes, "MAX_LOGS", 10)
    waiting = Waiting()
    assert waiting.add(batch(logs=[record(number) for number in range(25)])) == 15
    taken = waiting.take()
    assert taken is not None
    assert [one.number for one in taken.logs] == list(range(15, 25))


@pytest.mark.parametrize(
    "fields", [{"logs": [record(1)]}, {"sample": sample(1.0)}, {"batches": (BatchInfo("b", "b", "batch", 1, WALL, None, 1),)}]
)
def test_a_tick_hands_on_whatever_it_has(recorder: Recorder, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with nothing but a record, a sample or a declaration goes to the lanes at once, not with the next sign of life."""
    told: list[Any] = []

    class Sink:
        def write(self, one: Any) -> None:
            told.append(one)

        def close(self) -> None:
            """Nothing to close."""

    lane = Lane("told", Sink())
    recorder.runtime.lanes.append(lane)
    recorder.tick()
    wait_until(lambda: len(told) == 1)
    monkeypatch.setattr(recorder.runtime.store, "collect", lambda: batch(clock=recorder.clock.monotonic(), **fields))
    recorder.tick()
    wait_until(lambda: len(told) == 2)
    monkeypatch.undo()


def test_trouble_with_requests_refuses_no_batch() -> None:
    """When nobody can be heard after a write, the batch is written all the same."""
    told: list[Any] = []

    class Sink:
        def write(self, one: Any) -> None:
            told.append(one)

        def close(self) -> None:
            """Nothing to close."""

    def deaf() -> None:
        raise OSError("no requests")

    lane = Lane("deaf", Sink(), on_written=deaf)
    lane.post(batch())
    assert lane.close(5.0)
    assert len(told) == 1
