"""Reader of the live store and the journal, with real files and processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import Status
from otel_progress.instrument import relays
from otel_progress.instrument.tracer import ProgressTracer
from otel_progress.journal import open_journal
from otel_progress.protocols import Controller, Reader
from otel_progress.testing import FakeClock, Recorder, recording, wait_until
from tests.support.factories import WALL, event, make_change_set, snapshot

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
        operation = runtime.reader.get(sys.argv[2])
        print(op.cancel_requested, operation.cancel_requested_at is not None, flush=True)
    assert runtime.force_flush(60.0)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of the journal."""
    return f"sqlite:///{tmp_path}/p.db"


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    """Record with a journal."""
    with recording(store=url, clock=FakeClock(wall=WALL)) as recorder:
        yield recorder


class OtherProcess:
    """Another process that waits within an operation."""

    def __init__(self, url: str, id_: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OTHER, url, id_],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        assert self.read_line() == "ready"

    def read_line(self) -> str:
        """Return its next line of output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self) -> str:
        """Let it end. Return its output about cancel requests."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read_line()

    def close(self) -> None:
        """Wait for the end of the process."""
        self.process.communicate(timeout=60)


@pytest.fixture
def other(url: str) -> Iterator[OtherProcess]:
    """Another process with the operation ``theirs``."""
    with closing(OtherProcess(url, "theirs")) as process:
        yield process


def test_runtime_reader_is_a_reader_and_a_controller(recorder: Recorder) -> None:
    """It has both protocols."""
    assert isinstance(recorder.runtime.reader, Reader)
    assert isinstance(recorder.runtime.reader, Controller)


@pytest.mark.process
def test_reader_merges_operations_of_this_and_other_processes(
    recorder: Recorder, other: OtherProcess
) -> None:
    """Each run is returned once. Runs of this process are current."""
    reader = recorder.runtime.reader
    with progress.operation("here", id="mine", total=2) as op:
        with progress.operation("here", id="over"):
            pass
        assert recorder.runtime.force_flush(60.0)
        op.increment()
        active = {operation.operation_id: operation for operation in reader.active()}
        assert set(active) == {"mine", "theirs"}
        assert active["mine"].root.current == 1  # the journal has 0
        assert [operation.operation_id for operation in reader.history()].count("over") == 1
        assert {operation.operation_id for operation in reader.history()} == {"over", "done"}
        assert [operation.operation_id for operation in reader.history(operation_type="elsewhere")] == [
            "done"
        ]
        assert reader.history(limit=0) == []
        theirs = reader.get("theirs")
        assert theirs is not None
        assert theirs.root.failed == 1
        assert [event.name for event in reader.events("theirs")] == ["a"]
    other.finish()


@pytest.mark.parametrize("has_ended", [False, True], ids=["running", "ended"])
def test_cancel_request_in_this_process_is_visible_to_journal_readers(
    recorder: Recorder, url: str, has_ended: bool
) -> None:
    """The request is made before the journal has the operation. The first one is kept."""
    op = progress.operation("here", id="mine").start()
    assert progress.request_cancel("mine", "first")
    requested_at = recorder.operation("mine").cancel_requested_at
    if has_ended:
        op.cancel()
    assert recorder.runtime.force_flush(60.0)
    recorder.clock.advance(1.0)
    assert progress.request_cancel("mine", "second") is not has_ended
    assert recorder.runtime.force_flush(60.0)
    with closing(open_journal(url)) as journal:
        stored = journal.get("mine")
    assert stored is not None
    assert requested_at is not None
    assert stored.cancel_requested_at == requested_at
    assert op.recording is not has_ended


def test_history_pages_of_store_and_journal_have_no_gaps_or_doubles(recorder: Recorder) -> None:
    """Only some of the runs are in the journal."""
    for number in range(7):
        recorder.clock.advance(1.0)
        with progress.operation("o", id=str(number)):
            pass
        if number == 3:
            assert recorder.runtime.force_flush(60.0)
    ids: list[str] = []
    before = None
    while page := recorder.runtime.reader.history(limit=3, before=before):
        ids += [operation.operation_id for operation in page]
        before = (page[-1].root.ended_at or 0.0, page[-1].run)
    assert ids == ["6", "5", "4", "3", "2", "1", "0"]


def test_reader_returns_the_newest_run_of_an_id(recorder: Recorder, url: str) -> None:
    """Only events of that run are returned."""
    with progress.operation("o", id="x") as op:
        op.item("first")
    assert recorder.runtime.force_flush(60.0)
    recorder.clock.advance(10.0)
    with progress.operation("o", id="x") as op:
        op.item("second")
        assert [event.name for event in recorder.runtime.get_events("x")] == ["second"]
    newer = snapshot(operation_id="x", run="elsewhere", started_at=WALL + 100.0)
    with closing(open_journal(url)) as journal:
        journal.write(
            make_change_set(
                newer, events=(event(1, operation_id="x", run="elsewhere", name="third"),), at=WALL + 100.0
            )
        )
    assert recorder.runtime.get_operation("x").run == "elsewhere"  # type: ignore[union-attr]
    assert [event.name for event in recorder.runtime.get_events("x")] == ["third"]


def _start_attempt(run: str, attempt: int) -> progress.Level:
    """Return the handle of an attempt of a task, which any process may execute."""
    return relays.relay_operation(ProgressTracer("tasks").operation("o", id="task"), run, attempt)


def test_later_attempt_of_another_process_replaces_the_own_one(recorder: Recorder, url: str) -> None:
    reader = recorder.runtime.reader
    with _start_attempt("a1", 1) as op:
        relays.announce_attempt(op, "waits for a retry")
    assert recorder.runtime.force_flush(60.0)
    waiting = reader.get("task")
    assert waiting is not None
    assert (waiting.status, waiting.root.info.attempt) == (Status.PENDING, 2)
    assert reader.history() == []
    info = replace(waiting.root.info, instance="elsewhere")
    sequence = waiting.root.sequence + 1
    with closing(open_journal(url)) as journal:
        for status, is_ended in ((Status.RUNNING, False), (Status.COMPLETED, True)):
            root = replace(waiting.root, info=info, status=status, sequence=sequence + is_ended)
            if is_ended:
                root = replace(root, ended_at=WALL + 9.0, duration_s=9.0)
            journal.write(make_change_set(root, at=WALL))
            found = reader.get("task")
            assert found is not None
            assert found.status is status
            assert [each.status for each in reader.history()] == [status] * is_ended


def test_history_has_the_last_attempt_of_this_process(recorder: Recorder) -> None:
    for attempt in (1, 2, 3):
        recorder.clock.advance(10.0)
        with _start_attempt("a1", attempt) as op:
            if attempt < 3:
                relays.announce_attempt(op, "waits for a retry")
    (ended,) = recorder.runtime.get_history()
    assert (ended.status, ended.root.info.attempt) == (Status.COMPLETED, 3)


def test_logs_of_store_and_journal_are_merged_in_order(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The newest record is not in the journal yet."""
    caplog.set_level(logging.INFO, logger="x")
    with recording(store=url, capture_logs=True) as recorder, progress.operation("o", id="o"):
        for number in range(5):
            logging.getLogger("x").info("written %d", number)
        assert recorder.runtime.force_flush(60.0)
        logging.getLogger("x").info("new")
        records = recorder.runtime.reader.logs("o")
        assert [record.number for record in records] == [1, 2, 3, 4, 5, 6]
        assert [record.message for record in recorder.runtime.reader.logs("o", after=4)] == [
            "written 4",
            "new",
        ]
        with closing(open_journal(url, read_only=True)) as journal:
            assert [record.message for record in journal.logs("o")] == [
                f"written {number}" for number in range(5)
            ]


def test_resource_samples_of_store_and_journal_are_merged(url: str) -> None:
    """Each sample is returned once, oldest first."""
    pytest.importorskip("psutil")
    with recording(store=url, resources=True) as recorder, progress.operation("o", id="o"):
        for _ in range(4):
            recorder.clock.advance(1.0)
            assert recorder.runtime.force_flush(60.0)
        samples = recorder.runtime.reader.resources("o")
        assert [sample.at for sample in samples] == sorted({sample.at for sample in samples})
        assert len(samples) == 3


@pytest.mark.process
def test_watch_yields_active_operations_then_changes_of_both_processes(
    recorder: Recorder, other: OtherProcess
) -> None:
    """Closing it leaves nothing open."""
    with progress.operation("here", id="mine", total=2) as op:
        assert recorder.runtime.force_flush(60.0)
        watch: Any = recorder.runtime.reader.watch(0.01)
        assert {operation.operation_id for operation in next(watch)} == {"mine", "theirs"}
        op.increment()
        own = [
            [operation.operation_id for operation in next(watch) if operation.operation_id != "theirs"]
            for _ in range(2)
        ]
        # The other operation may change at any time, because its clock and estimate do.
        assert own == [["mine"], []]
        other.finish()
        wait_until(
            lambda: (
                ("theirs", Status.COMPLETED)
                in [(operation.operation_id, operation.status) for operation in next(watch)]
            ),
            60.0,
        )
        watch.close()


@pytest.mark.process
def test_batch_with_operations_of_others_has_the_total_that_this_process_declared(
    recorder: Recorder, url: str
) -> None:
    """Their operations may be in the journal before the declaration of this process."""
    batch = progress.batch("Images", id="images", total=2).start()
    with closing(open_journal(url)) as journal:
        for number in range(2):
            ended = snapshot(
                run=f"run-{number}", operation_id=f"resize-{number}", batch=batch.id, status=Status.COMPLETED
            )
            journal.write(make_change_set(ended, replace(ended, sequence=2)))
    for found in (recorder.runtime.get_batch("images"), *recorder.runtime.reader.batches()):
        assert found is not None
        assert (found.total, found.ratio, found.status) == (2, 1.0, Status.COMPLETED)


def test_request_cancel_reaches_the_process_of_the_run(recorder: Recorder, other: OtherProcess) -> None:
    """The request for another process goes through the journal."""
    with progress.operation("here", id="mine"):
        assert recorder.runtime.request_cancel("mine", "enough")
        assert recorder.operation("mine").cancel_requested_at is not None
    assert not recorder.runtime.request_cancel("unknown", "enough")
    assert recorder.runtime.request_cancel("theirs", "enough")
    assert other.finish() == "True True"


def test_cancel_request_for_an_earlier_run_does_not_affect_the_next_run(recorder: Recorder) -> None:
    """Both runs have the same id."""
    from otel_progress.records import CancelRequest
    from otel_progress.runtime.builder import apply_cancel_requests

    with progress.operation("o", id="x"):
        store = recorder.runtime._store
        apply_cancel_requests(store, [CancelRequest("an-earlier-run", "x", "enough", WALL)])
        assert recorder.operation("x").cancel_requested_at is None
        run = recorder.operation("x").run
        apply_cancel_requests(store, [CancelRequest(run, "x", "enough", WALL)])
        assert recorder.operation("x").cancel_requested_at is not None


def test_delete_removes_ended_runs_from_store_and_journal(recorder: Recorder) -> None:
    """Each run is counted once. The active run stays."""
    for _ in range(2):
        with progress.operation("o", id="x"):
            pass
    assert recorder.runtime.force_flush(60.0)
    with progress.operation("o", id="x"):
        assert recorder.runtime.reader.delete("x") == 2
        assert recorder.runtime.get_history() == []
        assert recorder.runtime.get_operation("x") is not None


def test_reader_with_damaged_journal_returns_live_operations(recorder: Recorder, tmp_path: Path) -> None:
    """The damage is an internal error."""
    with progress.operation("o", id="x"):
        assert recorder.runtime.force_flush(60.0)
        for file in tmp_path.iterdir():
            file.write_bytes(b"no database")
        reader = recorder.runtime.reader
        assert [operation.operation_id for operation in reader.active()] == ["x"]
        assert [operation.operation_id for operation in next(iter(reader.watch(0.01)))] == ["x"]
        assert reader.logs("x") == ()
        for file in tmp_path.iterdir():
            # SQLite may have removed files itself.
            file.unlink(missing_ok=True)
