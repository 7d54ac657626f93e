"""One operation of several real processes, in SQLite and Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_progress.journal import open_journal
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from tests.support.exit_programs import finish, run, start
from tests.support.otlp_receiver import attributes, receiving
from tests.support.redis_servers import RedisServer, create_name, running_redis

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs all start methods"),
]

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/support/programs/shared_operation.py"
METHODS = ("fork", "forkserver", "spawn")
KINDS = ("process", "pool", "partial", "executor", "asyncio")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server for the tests of this module."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def make_url(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return the URL of an empty journal."""

    def make(store: str) -> str:
        if store == "sqlite":
            return f"sqlite:///{tmp_path / 'progress.db'}"
        server: RedisServer = request.getfixturevalue("redis_server")
        return f"{server.url}?name={create_name()}"

    return make


def run_program(url: str, folder: Path, method: str, kind: str, work: str, **environ: str) -> str:
    """Run the program and return its output. It prints no warning."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    result = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", str(PROGRAM), method, kind, work],
        env={**kept, "OTEL_PROGRESS_STORE": url, "PYTHONPATH": str(ROOT), **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


def read(url: str, operation_id: str = "shared") -> OperationSnapshot:
    """Return the only operation of a journal."""
    journal = open_journal(url, read_only=True)
    found = journal.get(operation_id)
    operations = [*journal.active(), *journal.history()]
    journal.close()
    assert found is not None
    assert [each.operation_id for each in operations] == [operation_id]
    return found


def assert_complete(operation: OperationSnapshot) -> None:
    """Assert that the operation completed all its units."""
    root = operation.root
    assert (root.status, root.current, root.total, root.ratio) == (Status.COMPLETED, 6, 6, 1.0)
    assert not root.ended_early


def assert_levels(operation: OperationSnapshot) -> None:
    """Assert that the levels of all processes are complete."""
    files = [level for level in operation.levels if level.info.type == "file"]
    assert sorted(level.info.id for level in files) == list("012345")
    assert {(level.status, level.current, level.total) for level in files} == {(Status.COMPLETED, 2, 2)}
    loops = [level for level in operation.levels if level.info.type == "track"]
    assert {(loop.status, loop.current, loop.total) for loop in loops} == {(Status.COMPLETED, 3, 3)}
    assert sorted(loop.info.parent_path or "" for loop in loops) == [f"file:{n}" for n in range(6)]
    assert operation.root.failed == 1


@pytest.mark.parametrize(
    ("method", "kind", "work", "store"),
    [
        ("fork", "process", "increment", "sqlite"),
        ("spawn", "pool", "level", "sqlite"),
        ("forkserver", "executor", "increment", "sqlite"),
        ("fork", "threads", "level", "sqlite"),
    ],
)
def test_work_of_other_processes_is_part_of_the_operation(
    tmp_path: Path, make_url: Callable[[str], str], method: str, kind: str, work: str, store: str
) -> None:
    """The final count is exact, and nothing is printed except the results."""
    url = make_url(store)
    expected = [0] * 6 if kind == "process" else list(range(6))
    assert run_program(url, tmp_path, method, kind, work) == str(expected)
    operation = read(url)
    assert_complete(operation)
    if work == "level":
        assert_levels(operation)


@pytest.mark.server
@pytest.mark.parametrize(("method", "kind", "work"), [("fork", "pool", "level")])
def test_work_of_other_processes_is_part_of_the_operation_in_redis(
    tmp_path: Path, make_url: Callable[[str], str], method: str, kind: str, work: str
) -> None:
    url = make_url("redis")
    assert run_program(url, tmp_path, method, kind, work) == str(list(range(6)))
    assert_complete(read(url))
    assert_levels(read(url))


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("store", ["sqlite", "redis"])
@pytest.mark.parametrize("work", ["increment", "level"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_work_of_every_pool_is_part_of_the_operation(
    tmp_path: Path, make_url: Callable[[str], str], method: str, kind: str, work: str, store: str
) -> None:
    url = make_url(store)
    expected = [0] * 6 if kind == "process" else list(range(6))
    assert run_program(url, tmp_path, method, kind, work) == str(expected)
    assert_complete(read(url))
    if work == "level":
        assert_levels(read(url))


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("store", ["sqlite", "redis"])
@pytest.mark.parametrize("work", ["increment", "level"])
def test_work_of_joblib_is_part_of_the_operation(
    tmp_path: Path, make_url: Callable[[str], str], work: str, store: str
) -> None:
    """Its processes start neither by fork nor by spawn of multiprocessing."""
    pytest.importorskip("joblib")
    url = make_url(store)
    assert run_program(url, tmp_path, "spawn", "joblib", work) == str(list(range(6)))
    assert_complete(read(url))


@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_exception_of_a_call_in_another_process_is_unchanged(
    tmp_path: Path, make_url: Callable[[str], str], kind: str
) -> None:
    """It fails no level. Calls after it may not run."""
    url = make_url("sqlite")
    assert run_program(url, tmp_path, "fork", kind, "fail") == "ValueError: three"
    operation = read(url)
    assert operation.status is Status.COMPLETED
    assert 4 <= operation.root.current <= 6


def test_levels_of_a_killed_process_are_cancelled_and_its_counts_stay(tmp_path: Path) -> None:
    """The owner detects it while it works."""
    code = """
    import multiprocessing, os, signal, time

    def work(op, ready):
        with op.level("file", "a", total=3) as level:
            op.increment(2)
            level.increment()
            ready.set()
            time.sleep(600)

    progress.configure(console=False)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with progress.operation("job", id="shared", total=6) as op:
        process = context.Process(target=work, args=(op, ready))
        process.start()
        ready.wait()
        while op.snapshot().current < 2 or not progress.get_operation("shared").levels[0].current:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while progress.get_operation("shared").levels[0].status.value == "running":
            time.sleep(0.01)
        op.increment(4)
    """
    assert run(tmp_path, code)[0] == 0
    operation = read(f"sqlite:///{tmp_path / 'progress.db'}")
    assert_complete(operation)
    (level,) = operation.levels
    assert (level.status, level.current, level.message) == (Status.CANCELLED, 1, "its process ended first")


def test_cancel_request_stops_the_loops_of_other_processes(tmp_path: Path) -> None:
    """The loop in the child raises, and the exception reaches the caller of the pool."""
    code = """
    import multiprocessing, time

    def work(op):
        for _ in op.track(iter(int, 1), "endless"):
            time.sleep(0.001)

    progress.configure(console=False)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        with progress.operation("job", id="shared") as op:
            result = pool.apply_async(work, (op,))
            while not progress.get_operation("shared").levels:
                time.sleep(0.01)
            progress.request_cancel("shared", "enough")
            try:
                result.get(600)
            except progress.OperationCancelledError as error:
                print(error)
    """
    status, output, errors = run(tmp_path, code)
    assert (status, output.strip()) == (0, "enough"), errors


def test_handle_that_a_fork_inherited_works_on_the_operation(tmp_path: Path) -> None:
    """It was not pickled: the child has it as a global variable."""
    code = """
    import multiprocessing

    def work(number):
        op.increment()
        with op.level("file", number):
            pass
        assert progress.get_operation("shared").root.info.instance != ""

    progress.configure(console=False)
    with progress.operation("job", id="shared", total=6) as op:
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=work, args=(number,)) for number in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    """
    status, _, errors = run(tmp_path, code)
    assert status == 0, errors
    operation = read(f"sqlite:///{tmp_path / 'progress.db'}")
    assert_complete(operation)
    assert sorted(level.info.id for level in operation.levels) == list("012345")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_used_before", [True, False])
def test_inherited_handle_counts_after_the_child_was_configured_again(
    tmp_path: Path, is_used_before: bool
) -> None:
    """The store is the same, so all units are part of the operation."""
    code = f"""
    import os, time

    progress.configure(console=False)
    with progress.operation("job", id="shared", total=6) as op:
        if os.fork() == 0:
            if {is_used_before}:
                op.increment(2)
            progress.configure(service_name="child")
            op.increment(4)
            op.level("file", "a").start().complete()
            os._exit(0)
        os.wait()
        # Why: the end of an operation waits a limited time for a busy machine.
        for _ in range(6000):
            found = progress.get_operation("shared")
            if found.root.current == {6 if is_used_before else 4} and found.levels:
                break
            time.sleep(0.01)
    """
    assert run(tmp_path, code) == (0, "", "")
    operation = read(f"sqlite:///{tmp_path / 'progress.db'}")
    assert operation.root.current == (6 if is_used_before else 4)
    assert [level.info.path for level in operation.levels] == ["file:a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_used_before", [True, False])
def test_inherited_handle_after_a_change_of_the_store_records_a_linked_operation(
    tmp_path: Path, is_used_before: bool
) -> None:
    """The process that started the operation does not read the new store."""
    code = f"""
    import os

    progress.configure(console=False)
    with progress.operation("job", id="shared", total=6) as op:
        if os.fork() == 0:
            if {is_used_before}:
                op.increment(2)
            progress.configure(store="sqlite:///{tmp_path / "other.db"}")
            op.increment(4)
            (found,) = progress.get_active_operations()
            print(found.root.current, found.root.info.parent.operation_id, flush=True)
            os._exit(0)
        os.wait()
    """
    status, output, errors = run(tmp_path, code)
    assert (status, output) == (0, "4 shared\n"), errors
    assert errors.count("Invalid store for a handle of job of another process") == 1
    assert read(f"sqlite:///{tmp_path / 'progress.db'}").root.current == (2 if is_used_before else 0)


def test_handle_that_is_used_after_the_end_changes_only_the_count(tmp_path: Path) -> None:
    """The operation stays completed, and its late units are added."""
    code = """
    import multiprocessing, time

    def work(op, ended):
        ended.wait()
        op.increment(2)
        op.complete()
        with op.level("file", "late"):
            pass

    progress.configure(console=False)
    context = multiprocessing.get_context("spawn")
    if __name__ == "__main__":
        ended = context.Event()
        with progress.operation("job", id="shared", total=6) as op:
            process = context.Process(target=work, args=(op, ended))
            process.start()
            op.increment(4)
        ended.set()
        process.join()
        while progress.get_operation("shared").root.current < 6:
            time.sleep(0.01)
    """
    process = start(tmp_path, code)
    status, _, errors = finish(process)
    assert status == 0, errors
    assert errors.count("Invalid end of job: expected the process that started the level") == 1
    operation = read(f"sqlite:///{tmp_path / 'progress.db'}")
    assert_complete(operation)
    assert operation.levels == ()


@pytest.mark.parametrize(
    "work",
    [
        "with op.level('file', 'a', total=1) as level: level.increment()",
        "with op.level('folder', 'f').level('file', 'a', total=1) as level: level.increment()",
        "list(op.track(range(1), 'a', type='file'))",
    ],
    ids=["level", "nested", "track"],
)
def test_first_use_of_a_handle_in_an_unconfigured_process_is_a_level(tmp_path: Path, work: str) -> None:
    """The handle configures the process before its level starts."""
    code = f"""
    import multiprocessing, time

    def work(op):
        {work}

    if __name__ == "__main__":
        progress.configure(console=False)
        context = multiprocessing.get_context("spawn")
        with progress.operation("job", id="shared") as op:
            process = context.Process(target=work, args=(op,))
            process.start()
            process.join()
            while not any(level.info.type == "file" for level in progress.get_operation("shared").levels):
                time.sleep(0.01)
    """
    status, _, errors = finish(start(tmp_path, code))
    assert (status, errors) == (0, "")
    operation = read(f"sqlite:///{tmp_path / 'progress.db'}")
    assert [level.current for level in operation.levels if level.info.type == "file"] == [1]


def test_levels_of_other_processes_are_in_the_trace_of_the_operation(
    tmp_path: Path, make_url: Callable[[str], str]
) -> None:
    """The spans of the levels are children of the span of the operation."""
    with receiving() as receiver:
        environ = {
            "OTEL_PROGRESS_OTLP": "true",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
        }
        run_program(make_url("sqlite"), tmp_path, "fork", "process", "level", **environ)
    spans = [span for _, span in receiver.spans()]
    (root,) = [span for span in spans if span.name == "job"]
    files = [span for span in spans if span.name == "file"]
    assert {(span.trace_id, span.parent_span_id) for span in files} == {(root.trace_id, root.span_id)}
    assert len(files) == 6
    assert {attributes(span)["progress.operation.id"] for span in files} == {"shared"}


def test_process_without_a_shared_store_records_a_linked_operation_and_warns_once(tmp_path: Path) -> None:
    """Its span is a child of the span of the operation."""
    code = """
    import multiprocessing

    def work(number):
        progress.current_level().increment()
        (found,) = progress.get_active_operations()
        assert found.root.info.parent.operation_id == "shared"

    progress.configure(console=False, store="memory:")
    with progress.operation("job", id="shared", total=6) as op:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            pool.map(progress.wrap(work), range(6))
    assert progress.get_operation("shared").root.current == 0
    """
    status, _, errors = run(tmp_path, code)
    assert status == 0, errors
    assert errors.count("Invalid store for a handle of job of another process") == 1
