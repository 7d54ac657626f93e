"""Operations whose id another live process uses."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.journal import SqliteJournal, open_journal
from otel_progress.journal.sqlite.connection import ManagedConnection
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import HistoryQuery
from otel_progress.testing import Recorder, recording
from tests.support.factories import instance, make_change_set, snapshot
from tests.support.metrics_scrape import exposition
from tests.support.redis_servers import RedisServer, create_name, running_redis

PATIENCE_S: Final = 60.0

OWNER: Final = instance("other", pid=4712, host="render-7/boot/1")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of this file."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.server)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty journal of each backend."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'progress.db'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return f"{server.url}?name={create_name()}"


@contextmanager
def _recording(path: Path, *ids: str, **settings: Any) -> Iterator[Recorder]:
    """Record with a journal in which another process runs these operations."""
    with recording(store=f"sqlite:///{path}", **settings) as recorder:
        roots = [snapshot(operation_id=id_, id=id_, run=f"other {id_}", instance="other") for id_ in ids]
        now = {"at": recorder.clock.wall(), "clock": recorder.clock.monotonic()}
        with closing(SqliteJournal(path)) as journal:
            journal.write(replace(make_change_set(*roots, instance=OWNER), **now))
        yield recorder


def _read_rejections(recorder: Recorder) -> dict[tuple[str, ...], float]:
    return dict(recorder.runtime._totals.read().counters.get(semconv.UPDATES_REJECTED, {}))


def test_operation_is_renamed_in_all_views(tmp_path: Path) -> None:
    """Its handle, queries, metrics, levels, records and span have the new id."""
    with _recording(tmp_path / "p.db", "nightly") as recorder:
        runtime = recorder.runtime
        with progress.operation("backup", id="nightly", total=2) as op, op.level("file", "a") as part:
            run = runtime.get_operation("nightly").run  # type: ignore[union-attr]
            assert op.operation_id == "nightly"
            assert progress.flush(PATIENCE_S)
            assert (op.operation_id, part.operation_id) == ("nightly~2", "nightly~2")
            for found in (runtime.get_operation("nightly~2"), *runtime.get_active_operations()):
                assert found is not None
                if found.root.info.instance != OWNER.id:
                    assert (found.operation_id, found.run) == ("nightly~2", run)
                    assert [level.info.operation_id for level in found.levels] == ["nightly~2"]
            other = runtime.get_operation("nightly")
            assert other is not None
            assert other.run == "other nightly"
            collector = recorder.runtime._components.build_metrics_collector()
            scrape = exposition(collector)
            assert '"nightly~2"' in scrape
            assert '"nightly"' not in scrape
            op.item("x", outcome="completed")
            with op.level("file", "b") as second:
                assert second.operation_id == "nightly~2"
            assert runtime.request_cancel("nightly~2", "stop")
            assert op.cancel_requested
            assert progress.flush(PATIENCE_S)
        assert progress.flush(PATIENCE_S)
        assert [(each.operation_id, each.run) for each in runtime.get_history()] == [("nightly~2", run)]
        assert {event.operation_id for event in runtime.get_events("nightly~2")} == {"nightly~2"}
        assert {span.attributes[semconv.OPERATION_ID] for span in recorder.spans()} == {"nightly~2"}  # type: ignore[index]
        with closing(open_journal(f"sqlite:///{tmp_path / 'p.db'}")) as journal:
            stored = journal.get("nightly~2")
            assert stored is not None
            assert {each.info.operation_id for each in (stored.root, *stored.levels)} == {"nightly~2"}
            assert [problem for problem in journal.diagnose() if problem.state == "problem"] == []


@pytest.mark.parametrize("strict", [False, True])
def test_rename_is_logged_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    """Strict mode does not raise, because the start has returned."""
    with _recording(tmp_path / "p.db", "a", "b", "c", strict=strict) as recorder, ExitStack() as stack:
        for id_ in "abc":
            stack.enter_context(progress.operation("backup", id=id_))
        assert progress.flush(PATIENCE_S)
        assert _read_rejections(recorder) == {("duplicate_id",): 3}
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    text = record.getMessage()
    assert text.startswith(
        "Invalid operation id 'a': expected an id that no other live process uses, but process 4712 on "
        "'render-7' does. The run continues as 'a~2'. Give each process its own id, or use resume=True."
    )


def test_renamed_operation_avoids_the_ids_of_its_process(tmp_path: Path) -> None:
    """Two operations of this process have the id as well."""
    with _recording(tmp_path / "p.db", "nightly", "nightly~3", strict=False), ExitStack() as stack:
        first, second = (stack.enter_context(progress.operation("backup", id="nightly")) for _ in range(2))
        assert second.operation_id == "nightly~2"
        assert progress.flush(PATIENCE_S)
        assert (first.operation_id, second.operation_id) == ("nightly~4", "nightly~2")
        third = stack.enter_context(progress.operation("backup", id="nightly"))
        assert third.operation_id == "nightly"
        assert progress.flush(PATIENCE_S)
        assert third.operation_id == "nightly~5"


def test_short_operation_keeps_its_id(tmp_path: Path) -> None:
    """It has ended before the first tick, so it is a later run of the id."""
    with _recording(tmp_path / "p.db", "nightly") as recorder:
        with progress.operation("backup", id="nightly") as op:
            pass
        assert progress.flush(PATIENCE_S)
        assert op.operation_id == "nightly"
        assert _read_rejections(recorder) == {}


def test_children_of_a_renamed_operation_stay_below_it(tmp_path: Path) -> None:
    """Many levels started before the rename."""
    with (
        _recording(tmp_path / "p.db", "nightly") as recorder,
        progress.operation("backup", id="nightly") as op,
    ):
        levels = [op.level("file", n).start() for n in range(2_500)]
        assert progress.flush(PATIENCE_S)
        found = recorder.operation("nightly~2").levels
        assert {each.info.operation_id for each in found} == {"nightly~2"}
        for level in levels:
            level.complete()
        assert recorder.operation("nightly~2").root.current == 2_500


def test_only_given_ids_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generated id, a written operation and a resumed one cause no query."""
    searched: list[str] = []
    open_ = ManagedConnection.transaction

    @contextmanager
    def trace(handle: ManagedConnection, mode: str) -> Iterator[Any]:
        with open_(handle, mode) as connection:
            connection.set_trace_callback(
                lambda text: searched.append(text) if "operations_active_by_id" in text else None
            )
            yield connection
            connection.set_trace_callback(None)

    with _recording(tmp_path / "p.db", "nightly") as recorder:
        assert progress.flush(PATIENCE_S)
        monkeypatch.setattr(ManagedConnection, "transaction", trace)
        with progress.operation("backup") as generated, progress.operation("backup", id="r", resume=True):
            assert progress.flush(PATIENCE_S)
            assert searched == []
            with progress.operation("backup", id="given") as given:
                assert progress.flush(PATIENCE_S)
                assert len(searched) == 1
                given.increment()
                generated.increment()
                recorder.clock.advance(1.0)
                assert progress.flush(PATIENCE_S)
                assert len(searched) == 1


WORKER: Final = """
import logging, sys
import otel_progress as progress
logging.basicConfig(level=logging.WARNING)
progress.configure(store=sys.argv[1], console=False, resources=False, tick=0.02)
print("ready", flush=True)
sys.stdin.readline()
with progress.operation("backup", id="nightly", total=10) as op:
    with op.level("file", "a"):
        assert progress.flush(60)
        print(op.operation_id, flush=True)
        sys.stdin.readline()
    op.increment(10)
"""


def _start(store: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, store],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line or process.poll() is None, process.communicate(timeout=PATIENCE_S)[1]
    return line


def _continue(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _read_ids(found: list[OperationSnapshot]) -> dict[int, tuple[str, Status]]:
    return {
        operation.instance.pid: (operation.operation_id, operation.status)
        for operation in found
        if operation.instance is not None
    }


@pytest.mark.process
def test_processes_that_start_together_have_different_ids(store: str) -> None:
    """Each process and the journal have the same ids. All but one process warn."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_start(store)) for _ in range(3)]
        for process in processes:
            stack.callback(process.kill)
            assert _read_line(process) == "ready"
        for process in processes:
            _continue(process)
        ids = {process.pid: _read_line(process) for process in processes}
        assert sorted(ids.values()) == ["nightly", "nightly~2", "nightly~3"]
        with closing(open_journal(store)) as journal:
            found = _read_ids(list(journal.active()))
            assert found == {pid: (id_, Status.RUNNING) for pid, id_ in ids.items()}
        warned = {}
        for process in processes:
            _continue(process)
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, errors
            warned[process.pid] = re.findall(r"process (\d+) on .*The run continues as '([^']+)'", errors)
        with closing(open_journal(store)) as journal:
            ended = list(journal.history(HistoryQuery(limit=10)))
        assert _read_ids(ended) == {pid: (id_, Status.COMPLETED) for pid, id_ in ids.items()}
        assert {each.root.current for each in ended} == {10}
        for pid, id_ in ids.items():
            owners = {int(owner) for owner, _ in warned[pid]}
            assert [new for _, new in warned[pid]] == ([] if id_ == "nightly" else [id_])
            assert owners <= set(ids) - {pid}


@pytest.mark.process
def test_id_of_a_killed_process_is_free(store: str) -> None:
    """A run after a crash is a later run of the id, without a warning."""
    with _start(store) as first:
        assert _read_line(first) == "ready"
        _continue(first)
        assert _read_line(first) == "nightly"
        first.kill()
        first.communicate(timeout=PATIENCE_S)
    with _start(store) as second:
        assert _read_line(second) == "ready"
        _continue(second)
        assert _read_line(second) == "nightly"
        _, errors = second.communicate("\n", timeout=PATIENCE_S)
    assert second.returncode == 0
    assert "nightly" not in errors
