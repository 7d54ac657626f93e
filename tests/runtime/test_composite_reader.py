"""CompositeReader over a live store and a journal, with real files and processes."""

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
        print(op.cancel_requested, runtime.store.get(sys.argv[2]).cancel_requested_at is not None, flush=True)
    assert runtime.force_flush(60.0)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of the journal of this test."""
    return f"sqlite:///{tmp_path}/p.db"


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    """A recorder with a journal."""
    with recording(store=url, clock=FakeClock(wall=WALL)) as made:
        yield made


class Other:
    """Another process, which waits within an operation."""

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
        """Return the next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def resume(self) -> str:
        """Resume the process until its end, and return its output about requests."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Wait for the end of the process."""
        self.process.communicate(timeout=60)


@pytest.fixture
def other(url: str) -> Iterator[Other]:
    """Another process that runs the operation ``theirs``."""
    with closing(Other(url, "theirs")) as made:
        yield made


def test_facade_implements_both_protocols(recorder: Recorder) -> None:
    """It is a Reader and a Controller."""
    assert isinstance(recorder.runtime.reader, Reader)
    assert isinstance(recorder.runtime.reader, Controller)


@pytest.mark.process
def test_active_and_history_include_other_processes(recorder: Recorder, other: Other) -> None:
    """Each run is returned once, and own runs are current."""
    reader = recorder.runtime.reader
    with progress.operation("here", id="mine", total=2) as op:
        with progress.operation("here", id="over"):
            pass
        assert recorder.runtime.force_flush(60.0)
        op.increment()
        active = {one.operation_id: one for one in reader.active()}
        assert set(active) == {"mine", "theirs"}
        # The journal still has 0.
        assert active["mine"].root.current == 1
        assert [one.operation_id for one in reader.history()].count("over") == 1
        assert {one.operation_id for one in reader.history()} == {"over", "done"}
        assert [one.operation_id for one in reader.history(operation_type="elsewhere")] == ["done"]
        assert reader.history(limit=0) == []
        theirs = reader.get("theirs")
        assert theirs is not None
        assert theirs.root.failed == 1
        assert [one.name for one in reader.events("theirs")] == ["a"]
    other.resume()


def test_history_pages_of_both_sources_are_complete(recorder: Recorder) -> None:
    """Pages neither overlap nor leave gaps."""
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


def test_operation_with_two_runs_returns_the_newest(recorder: Recorder, url: str) -> None:
    """Only events of the newest run are returned."""
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


def test_logs_of_both_sources_are_complete_and_sorted(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The journal has older records, and memory has unwritten ones."""
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


def test_samples_of_both_sources_are_returned_once(url: str) -> None:
    """They are sorted by time."""
    pytest.importorskip("psutil")
    with recording(store=url, resources=True) as recorder, progress.operation("o", id="o"):
        for _ in range(4):
            recorder.clock.advance(1.0)
            assert recorder.runtime.force_flush(60.0)
        found = recorder.runtime.reader.resources("o")
        assert [sample.at for sample in found] == sorted({sample.at for sample in found})
        assert len(found) == 3


@pytest.mark.process
def test_watch_yields_changes_of_both_sources(recorder: Recorder, other: Other) -> None:
    """Closing it closes both watches."""
    with progress.operation("here", id="mine", total=2) as op:
        assert recorder.runtime.force_flush(60.0)
        watch: Any = recorder.runtime.reader.watch(0.01)
        assert {one.operation_id for one in next(watch)} == {"mine", "theirs"}
        op.increment()
        own = [[one.operation_id for one in next(watch) if one.operation_id != "theirs"] for _ in range(2)]
        # The other operation may be yielded at any time, because its estimate changes.
        assert own == [["mine"], []]
        other.resume()
        wait_until(
            lambda: ("theirs", Status.COMPLETED) in [(one.operation_id, one.status) for one in next(watch)],
            60.0,
        )
        watch.close()


@pytest.mark.process
def test_cancel_request_reaches_another_process(recorder: Recorder, other: Other) -> None:
    """Own runs have precedence."""
    with progress.operation("here", id="mine"):
        assert recorder.runtime.request_cancel("mine", "enough")
        assert recorder.operation("mine").cancel_requested_at is not None
    assert not recorder.runtime.request_cancel("nobody", "enough")
    assert recorder.runtime.request_cancel("theirs", "enough")
    assert other.resume() == "True True"


def test_cancel_request_of_ended_run_is_ignored(recorder: Recorder) -> None:
    """The run that reuses its id continues."""
    from otel_progress.records import CancelRequest

    with progress.operation("o", id="x"):
        recorder.runtime._apply_cancel_requests([CancelRequest("an-earlier-run", "x", "enough", WALL)])
        assert recorder.operation("x").cancel_requested_at is None
        recorder.runtime._apply_cancel_requests(
            [CancelRequest(recorder.operation("x").run, "x", "enough", WALL)]
        )
        assert recorder.operation("x").cancel_requested_at is not None


def test_delete_removes_runs_from_both_sources(recorder: Recorder) -> None:
    """A run in both is counted once, and active runs are kept."""
    for _ in range(2):
        with progress.operation("o", id="x"):
            pass
    assert recorder.runtime.force_flush(60.0)
    with progress.operation("o", id="x"):
        assert recorder.runtime.reader.delete("x") == 2
        assert recorder.runtime.get_history() == []
        assert recorder.runtime.get_operation("x") is not None


def test_unreadable_journal_leaves_live_results(recorder: Recorder, tmp_path: Path) -> None:
    """Queries raise no errors."""
    with progress.operation("o", id="x"):
        assert recorder.runtime.force_flush(60.0)
        for file in tmp_path.iterdir():
            file.write_bytes(b"no database")
        reader = recorder.runtime.reader
        assert [one.operation_id for one in reader.active()] == ["x"]
        assert [one.operation_id for one in next(iter(reader.watch(0.01)))] == ["x"]
        assert reader.logs("x") == ()
        for file in tmp_path.iterdir():
            # SQLite may have removed the file itself.
            file.unlink(missing_ok=True)
