"""One reader over the live store and the journal, and what comes to a worker through the journal: real files, real processes."""

from __future__ import annotations

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
from otel_progress import Status
from otel_progress.journal import open_journal
from otel_progress.protocols import Controller, Reader
from otel_progress.testing import FakeClock, Recorder, recording, wait_until
from tests.support.factories import WALL, batch, event, snapshot

OTHER = """
import sys
import otel_progress as progress
with progress.configure(store=sys.argv[1], console=False, otlp=False, tick=0.01) as runtime:
    with progress.operation("elsewhere", id="done", total=1) as op:
        op.increment()
    with progress.operation("elsewhere", id=sys.argv[2], total=3) as op:
        op.item("a", outcome="failed", error="no")
        assert runtime.force_flush(60.0)
        print("ready", flush=True)
        sys.stdin.readline()
        op.increment()
        assert runtime.force_flush(60.0)
        print(op.cancel_requested, runtime.reader.get(sys.argv[2]).cancel_requested_at is not None, flush=True)
    assert runtime.force_flush(60.0)
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
        self.process.communicate(timeout=60)


@pytest.fixture
def other(url: str) -> Iterator[Other]:
    """A worker elsewhere that runs ``theirs``."""
    with closing(Other(url, "theirs")) as made:
        yield made


def test_it_is_a_reader_and_a_controller(recorder: Recorder) -> None:
    """It has both protocols."""
    assert isinstance(recorder.runtime.reader, Reader)
    assert isinstance(recorder.runtime.reader, Controller)


@pytest.mark.process
def test_own_and_other_processes(recorder: Recorder, other: Other) -> None:
    """Active operations and history have what this process and the others do, each run once, and this one's as of now."""
    reader = recorder.runtime.reader
    with progress.operation("here", id="mine", total=2) as op:
        with progress.operation("here", id="over"):
            pass
        assert recorder.runtime.force_flush(60.0)
        op.increment()
        active = {one.operation_id: one for one in reader.active()}
        assert set(active) == {"mine", "theirs"}
        assert active["mine"].root.current == 1  # the journal has 0
        assert [one.operation_id for one in reader.history()].count("over") == 1
        assert {one.operation_id for one in reader.history()} == {"over", "done"}
        assert [one.operation_id for one in reader.history(operation_type="elsewhere")] == ["done"]
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
            assert recorder.runtime.force_flush(60.0)
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
    assert recorder.runtime.force_flush(60.0)
    recorder.clock.advance(10.0)
    with progress.operation("o", id="x") as op:
        op.item("second")
        assert [one.name for one in recorder.runtime.get_events("x")] == ["second"]
    newer = snapshot(operation_id="x", run="elsewhere", started_at=WALL + 100.0)
    with closing(open_journal(url)) as journal:
        journal.write(
            batch(newer, events=(event(1, operation_id="x", run="elsewhere", name="third"),), at=WALL + 100.0)
        )
    assert recorder.runtime.get_operation("x").run == "elsewhere"  # type: ignore[union-attr]
    assert [one.name for one in recorder.runtime.get_events("x")] == ["third"]


def test_logs_of_both(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The journal has the older records, memory those that are not written yet; together they are complete and in order."""
    caplog.set_level(logging.INFO, logger="x")
    with recording(store=url, capture_logs=True) as recorder, progress.operation("o", id="o"):
        for number in range(5):
            logging.getLogger("x").info("written %d", number)
        assert recorder.runtime.force_flush(60.0)
        logging.getLogger("x").info("new")
        found = recorder.runtime.reader.logs("o")
        assert [record.number for record in found] == [1, 2, 3, 4, 5, 6]
        assert [record.message for record in recorder.runtime.reader.logs("o", after=4)] == [
            "written 4",
            "new",
        ]
        with closing(open_journal(url, read_only=True)) as journal:
            assert [record.message for record in journal.logs("o")] == [
                f"written {number}" for number in range(5)
            ]


def test_samples_of_both(url: str) -> None:
    """Samples are told once each, oldest first."""
    pytest.importorskip("psutil")
    with recording(store=url, resources=True) as recorder, progress.operation("o", id="o"):
        for _ in range(4):
            recorder.clock.advance(1.0)
            assert recorder.runtime.force_flush(60.0)
        found = recorder.runtime.reader.resources("o")
        assert [sample.at for sample in found] == sorted({sample.at for sample in found})
        assert len(found) == 3


@pytest.mark.process
def test_watching_both(recorder: Recorder, other: Other) -> None:
    """A watch tells first all that is active anywhere, then changes of both, and ends without leaving anything open."""
    with progress.operation("here", id="mine", total=2) as op:
        assert recorder.runtime.force_flush(60.0)
        watch: Any = recorder.runtime.reader.watch(0.01)
        assert {one.operation_id for one in next(watch)} == {"mine", "theirs"}
        op.increment()
        own = [[one.operation_id for one in next(watch) if one.operation_id != "theirs"] for _ in range(2)]
        assert own == [
            ["mine"],
            [],
        ]  # theirs may be told at any time: its clock goes, and so does its estimate
        other.go_on()
        wait_until(
            lambda: ("theirs", Status.COMPLETED) in [(one.operation_id, one.status) for one in next(watch)],
            60.0,
        )
        watch.close()


@pytest.mark.process
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
    from otel_progress.records import CancelRequest
    from otel_progress.runtime.builder import apply_cancel_requests

    with progress.operation("o", id="x"):
        store = recorder.runtime._store
        apply_cancel_requests(store, [CancelRequest("an-earlier-run", "x", "enough", WALL)])
        assert recorder.operation("x").cancel_requested_at is None
        run = recorder.operation("x").run
        apply_cancel_requests(store, [CancelRequest(run, "x", "enough", WALL)])
        assert recorder.operation("x").cancel_requested_at is not None


def test_deleting(recorder: Recorder) -> None:
    """Ended runs go from memory and journal, and are counted once; what runs stays."""
    for _ in range(2):
        with progress.operation("o", id="x"):
            pass
    assert recorder.runtime.force_flush(60.0)
    with progress.operation("o", id="x"):
        assert recorder.runtime.reader.delete("x") == 2
        assert recorder.runtime.get_history() == []
        assert recorder.runtime.get_operation("x") is not None


def test_a_journal_that_is_gone(recorder: Recorder, tmp_path: Path) -> None:
    """What is live is told when the journal cannot be read."""
    with progress.operation("o", id="x"):
        assert recorder.runtime.force_flush(60.0)
        for file in tmp_path.iterdir():
            file.write_bytes(b"no database")
        reader = recorder.runtime.reader
        assert [one.operation_id for one in reader.active()] == ["x"]
        assert [one.operation_id for one in next(iter(reader.watch(0.01)))] == ["x"]
        assert reader.logs("x") == ()
        for file in tmp_path.iterdir():
            file.unlink(missing_ok=True)  # SQLite itself may have removed what it no longer needs
