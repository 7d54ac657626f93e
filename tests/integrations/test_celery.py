"""Celery tasks as operations, with real workers and a real broker."""

from __future__ import annotations

import gc
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed: these tests run the real one")

from celery import Celery, chain, chord, group, signals
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from opentelemetry import context as context_api

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.integrations import celery as integration
from otel_progress.integrations.tasks import BATCH_HEADER, RUN_HEADER, parse_run
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder
from tests.support.redis_servers import create_name, running_redis
from tests.support.servers import poll, running

PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]
POOLS = ("prefork", "solo")


@pytest.fixture
def instrumented() -> Iterator[None]:
    """The integration in the process of the test."""
    integration.instrument()
    yield
    integration.uninstrument()


# --- in the process of the test ---


@pytest.fixture
def eager(instrumented: None) -> Iterator[Celery]:
    """Application whose tasks run in the process of the test."""
    app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = True
    yield app
    app.close()


def _get(recorder: Recorder, operation_id: str) -> OperationSnapshot:
    recorder.tick()
    found = recorder.runtime.reader.get(operation_id)
    assert found is not None
    return found


def test_task_is_an_operation_and_the_current_level(recorder: Recorder, eager: Celery) -> None:
    """Its id is that of the task, and its type the name of the task."""

    @eager.task(name="resize", shared=False, bind=True)
    def resize(self: Any, number: int) -> str:
        for _ in progress.track(range(number), "files"):
            pass
        return progress.current_level().operation_id

    result = resize.delay(3)
    assert result.get() == result.id
    found = _get(recorder, result.id)
    assert (found.operation_type, found.status) == ("resize", progress.Status.COMPLETED)
    assert [(level.info.name, level.current) for level in found.levels] == [("files", 3)]
    assert not progress.current_level().recording


def test_failed_task_has_its_error(recorder: Recorder, eager: Celery) -> None:
    @eager.task(name="fail", shared=False)
    def fail() -> None:
        raise ValueError("no space left")

    result = fail.delay()
    found = _get(recorder, result.id)
    assert found.status is progress.Status.FAILED
    assert found.error is not None
    assert (found.error.type, found.error.message) == ("ValueError", "no space left")
    assert result.state == "FAILURE"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (Ignore(), progress.Status.SKIPPED, "ignored"),
        (Reject("not here"), progress.Status.CANCELLED, "rejected: "),
        (progress.OperationCancelledError("stop"), progress.Status.CANCELLED, ""),
    ],
)
def test_task_without_a_result_ends_with_its_status(
    recorder: Recorder, eager: Celery, error: Exception, status: progress.Status, message: str
) -> None:
    @eager.task(name="end", shared=False)
    def end() -> None:
        raise error

    found = _get(recorder, end.delay().id)
    assert found.status is status
    assert (found.message or "").startswith(message)


def test_system_exit_cancels_the_operation_and_is_raised(recorder: Recorder, eager: Celery) -> None:
    @eager.task(name="leave", shared=False)
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        leave.apply_async(task_id="leaving")
    assert _get(recorder, "leaving").status is progress.Status.CANCELLED


def test_eager_retry_is_the_next_attempt(recorder: Recorder, eager: Celery) -> None:
    """The attempts overlap, because the retry runs inside the first attempt."""

    @eager.task(name="retry", shared=False, bind=True, max_retries=3)
    def retry(self: Any) -> int:
        progress.current_level().increment()
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("again"))
        return int(self.request.retries)

    result = retry.delay()
    assert result.get() == 2
    found = _get(recorder, result.id)
    assert (found.status, found.root.info.attempt, found.root.current) == (progress.Status.COMPLETED, 3, 1)
    assert integration._executions == {}


def test_eager_retry_continues_the_run(instrumented: None, eager: Celery, tmp_path: Path) -> None:
    @eager.task(name="retry", shared=False, bind=True, max_retries=3)
    def retry(self: Any, failures: int) -> None:
        if self.request.retries < failures:
            raise self.retry(exc=ValueError("again"))

    with progress.configure(service_name="x", store=f"sqlite:///{tmp_path}/x.db", console=False) as runtime:
        for failures in (2, 9):
            retry.delay(failures)
        progress.flush()
        assert runtime.reader.active() == []
        found = [(each.status.value, each.root.info.attempt) for each in runtime.get_history()]
        assert found == [("failed", 4), ("completed", 3)]
    assert not integration._eager_runs


@pytest.mark.usefixtures("recorder")
def test_update_state_is_read_and_stored_as_before(eager: Celery) -> None:
    eager.conf.task_store_eager_result = True
    seen = []

    @eager.task(name="report", shared=False, bind=True)
    def report(self: Any) -> None:
        for meta in (
            {"current": 3, "total": 8, "status": "resizing"},
            {"current": 99, "total": 8},
            {"current": "four", "total": None, "message": 5},
            {"current": -1, "total": float("inf")},
            {"current": True, "total": []},
            ["no", "mapping"],
            None,
        ):
            self.update_state(state="PROGRESS", meta=meta)
            snapshot = progress.current_level().snapshot()
            seen.append((snapshot.current, snapshot.total, snapshot.message))
            seen.append(eager.AsyncResult(self.request.id).info == meta)

    report.delay().get()
    assert seen == [(3, 8, "resizing"), True, *[(8, 8, "resizing"), True] * 6]
    assert internal_error_counts == {}


def test_nothing_happens_without_a_configuration(eager: Celery) -> None:
    """The messages have no headers of ours, and the tasks run as before."""
    headers: dict[str, Any] = {"id": "1"}
    integration._prepare_message(sender="resize", headers=headers, body=((), {}, {}))
    assert headers == {"id": "1"}

    @eager.task(name="plain", shared=False, bind=True)
    def plain(self: Any) -> bool:
        self.update_state(state="PROGRESS", meta={"current": 1})
        return progress.current_level().recording

    assert plain.delay().get() is False
    assert integration._executions == {}


def test_uninstrument_restores_signals_and_methods() -> None:
    from celery.app.task import Task

    before = Task.update_state
    counts = [len(signal.receivers) for signal, _ in integration._list_receivers()]
    for _ in range(2):
        integration.instrument()
    assert Task.update_state is not before
    for _ in range(2):
        integration.uninstrument()
    assert Task.update_state is before
    assert [len(signal.receivers) for signal, _ in integration._list_receivers()] == counts


def test_instrumentor_activates_the_integration() -> None:
    pytest.importorskip("opentelemetry.instrumentation.instrumentor", reason="the distro is not installed")
    from otel_progress.integrations.instrumentors import CeleryInstrumentor

    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(skip_dep_check=True)
    try:
        assert integration._is_active[0]
    finally:
        instrumentor.uninstrument()
    assert not integration._is_active[0]


@pytest.fixture
def sender(
    instrumented: None,
    tmp_path: Path,
) -> Iterator[tuple[Celery, progress.Runtime]]:
    """Application without a worker, and a journal."""
    app = Celery(
        "sender", broker=f"memory://{uuid.uuid4().hex}", backend="cache+memory://", set_as_current=False
    )
    store = f"sqlite:////{str(tmp_path / 'progress.db').lstrip('/')}"
    with progress.configure(service_name="sender", store=store, console=False) as runtime:
        yield app, runtime
    app.close()


def test_sent_task_is_pending_without_a_worker(sender: tuple[Celery, progress.Runtime]) -> None:
    """The operation that sent it is its parent. Nothing of it stays in this process."""
    app, runtime = sender
    with progress.operation("import", id="import-7") as op:
        results = [app.send_task("resize", (number,)) for number in range(3)]
        assert runtime.force_flush()
    found = [runtime.reader.get(result.id) for result in results]
    assert [None if each is None else each.status for each in found] == [progress.Status.PENDING] * 3
    assert [each.condition for each in found if each] == [progress.Condition.OK] * 3
    assert {each.root.info.parent.operation_id for each in found if each and each.root.info.parent} == {
        "import-7"
    }
    assert op.operation_id == "import-7"
    assert runtime.get_active_operations() == []


def test_announce_is_optional(sender: tuple[Celery, progress.Runtime]) -> None:
    app, runtime = sender
    integration.instrument(announce=False)
    result = app.send_task("resize")
    assert runtime.force_flush()
    assert runtime.reader.get(result.id) is None


def test_group_has_its_total_before_a_worker_runs(sender: tuple[Celery, progress.Runtime]) -> None:
    app, runtime = sender
    members = group((app.signature("resize", (number,)) for number in range(4)), app=app).apply_async()
    assert runtime.force_flush()
    batch = runtime.get_batch(members.id)
    assert batch is not None
    assert (batch.total, batch.counts[progress.Status.PENDING], batch.status) == (
        4,
        4,
        progress.Status.RUNNING,
    )


def test_tasks_that_are_sent_in_the_block_of_a_batch_belong_to_it(
    sender: tuple[Celery, progress.Runtime],
) -> None:
    app, runtime = sender
    headers: dict[str, Any] = {}
    receiver = signals.before_task_publish.connect(lambda headers, **_: seen.update(headers), weak=False)
    seen: dict[str, Any] = headers
    with progress.batch("Thumbnails", id="thumbnails", total=3):
        for number in range(3):
            app.send_task("resize", (number,))
        assert runtime.force_flush()
        batch = runtime.get_batch("thumbnails")
    signals.before_task_publish.disconnect(receiver)
    assert batch is not None
    assert batch.counts[progress.Status.PENDING] == 3
    assert seen[BATCH_HEADER] == "thumbnails"


def test_many_groups_use_bounded_memory(
    sender: tuple[Celery, progress.Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = sender
    monkeypatch.setattr(integration, "MAX_GROUPS", 3)
    for _ in range(5):
        group([app.signature("resize"), app.signature("resize")], app=app).apply_async()
    assert len(integration._groups) == 3


def test_invalid_headers_are_ignored(recorder: Recorder, eager: Celery) -> None:
    """They may be of another program."""

    @eager.task(name="resize", shared=False)
    def resize() -> None: ...

    for value in ("", ";", "a;b", "x" * 99 + ";1", "../;1", "r;99999999", b"r;1", 7, None):
        assert parse_run(value) is None
        result = resize.apply_async(headers={RUN_HEADER: value, "otel-progress-parent": value})
        assert _get(recorder, result.id).status is progress.Status.COMPLETED
    assert internal_error_counts == {}


@pytest.mark.parametrize("is_first", [True, False])
def test_other_instrumentation_and_this_one_are_one_trace(
    recorder: Recorder, is_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its spans are the parents of those of the operations, in any order."""
    module = pytest.importorskip(
        "opentelemetry.instrumentation.celery", reason="opentelemetry-instrumentation-celery is not installed"
    )
    other = module.CeleryInstrumentor()
    app = Celery(
        "both", broker=f"memory://{uuid.uuid4().hex}", backend="cache+memory://", set_as_current=False
    )
    levels = []

    @app.task(name="resize", shared=False)
    def resize() -> None:
        levels.append(progress.current_level().operation_id)

    if is_first:
        integration.instrument()
    other.instrument(tracer_provider=recorder.provider)
    integration.instrument()
    try:
        headers: dict[str, Any] = {}
        before = signals.before_task_publish.connect(
            lambda headers, **_: captured.update(headers), weak=False
        )
        captured: dict[str, Any] = headers
        with progress.operation("import", id="import-7") as op:
            resize.apply_async(task_id="sent")
            trace_id = op.span.get_span_context().trace_id
        signals.before_task_publish.disconnect(before)
        # Why twice: the first execution moves the receiver to the end.
        for number in range(2):
            request = {**headers, "id": f"task-{number}", "delivery_info": {}}
            build_tracer("resize", resize, app=app)(f"task-{number}", (), {}, request)
            assert context_api.get_current() == {}
    finally:
        integration.uninstrument()
        other.uninstrument()
        app.close()
    assert levels == ["" if is_first else "task-0", "task-1"]
    assert [each.getMessage() for each in caplog.records if each.levelname in {"WARNING", "ERROR"}] == []
    spans = {span.name: span for span in recorder.exporter.get_finished_spans()}
    sent, run = spans["apply_async/resize"], spans["run/resize"]
    assert headers["traceparent"].split("-")[2] == f"{sent.context.span_id:016x}"
    assert {sent.context.trace_id, run.context.trace_id, spans["resize"].context.trace_id} == {trace_id}
    assert spans["resize"].parent.span_id == run.context.span_id
    found = _get(recorder, "task-1")
    assert found.root.info.parent is not None
    assert found.root.info.parent.operation_id == "import-7"


# --- real workers ---


class Workers:
    """A broker with its two workers, and the application of a sender."""

    def __init__(self, app: Celery, store: str, folder: Path) -> None:
        self.app = app
        self.store = store
        self.folder = folder

    def read_logs(self) -> str:
        """Return the output of the workers."""
        return "".join((self.folder / f"{pool}.log").read_text("utf-8", "replace") for pool in POOLS)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """A prefork and a solo worker, each with its queue."""
    folder = tmp_path_factory.mktemp("celery")
    with running_redis(folder / "redis") as server:
        store = f"{server.url}?name={create_name()}"
        environ = {
            "BROKER": server.url,
            "OTEL_PROGRESS_STORE": store,
            "OTEL_PROGRESS_SERVICE_NAME": "worker",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "celery", "-A", "tests.support.programs.celery_tasks", "worker"]
        options = ["-l", "INFO", "--without-gossip", "--without-mingle", "-c", "2"]

        def run(pool: str) -> Any:
            log = folder / f"{pool}.log"
            arguments = [*command, *options, "-P", pool, "-Q", pool, "-n", f"{pool}@%h"]
            # Why at once: both start at the same time.
            is_ready = (lambda: True) if pool == "prefork" else (lambda: all(map(_is_ready, logs)))
            return running(arguments, ready=is_ready, log=log, env=environ, timeout=PATIENCE_S)

        logs = [folder / f"{pool}.log" for pool in POOLS]
        app = Celery("sender", broker=server.url, backend=server.url, set_as_current=False)
        with run("prefork") as prefork, run("solo") as solo:
            yield Workers(app, store, folder)
            for process in (prefork, solo):
                process.terminate()
            # Why: a result that is collected later connects to the broker.
            gc.collect()
            app.close()


def _is_ready(log: Path) -> bool:
    return "ready." in log.read_text("utf-8", "replace")


@pytest.fixture
def runtime(workers: Workers, instrumented: None) -> Iterator[progress.Runtime]:
    """The configuration of the sender."""
    with progress.configure(service_name="sender", store=workers.store, console=False) as made:
        yield made


def _wait_for(
    runtime: progress.Runtime, operation_id: str, is_found: Callable[[OperationSnapshot], object]
) -> OperationSnapshot:
    def find() -> OperationSnapshot | None:
        found = runtime.reader.get(operation_id)
        return found if found is not None and is_found(found) else None

    return poll(find, PATIENCE_S, f"operation {operation_id}")


def _wait_for_end(runtime: progress.Runtime, operation_id: str) -> OperationSnapshot:
    return _wait_for(runtime, operation_id, lambda found: found.status.finished)


def _send(workers: Workers, name: str, *args: object, pool: str = "prefork", **options: Any) -> Any:
    return workers.app.send_task(name, args, queue=pool, **options)


@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize("pool", POOLS)
def test_worker_continues_the_run_of_the_sender(
    workers: Workers, runtime: progress.Runtime, pool: str
) -> None:
    """It has the trace and the level of the sender, and the levels of the task."""
    with progress.operation("import", id=f"import-{pool}") as op:
        result = _send(workers, "count", 5, pool=pool)
        pid = result.get(timeout=PATIENCE_S)
        trace_id = f"{op.span.get_span_context().trace_id:032x}"
    found = _wait_for_end(runtime, result.id)
    assert found.status is progress.Status.COMPLETED
    assert [(level.info.name, level.current) for level in found.levels] == [("units", 5)]
    assert found.root.info.parent is not None
    assert found.root.info.parent.operation_id == f"import-{pool}"
    assert found.root.info.trace_id == trace_id
    assert found.instance is not None
    assert (found.instance.pid, found.instance.service) == (pid, "worker")
    assert found.root.info.attempt == 1
    assert [each.operation_id for each in runtime.get_history("count", 500)].count(result.id) == 1


@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize("pool", POOLS)
def test_states_are_visible_while_the_task_runs(
    workers: Workers, runtime: progress.Runtime, tmp_path: Path, pool: str
) -> None:
    mark = tmp_path / "go"
    results = [_send(workers, "report", str(mark), pool=pool) for _ in range(4)]
    first = _wait_for(runtime, results[0].id, lambda found: found.root.current)
    assert (first.status, first.root.current, first.root.total, first.message) == (
        progress.Status.RUNNING, 3, 8, "resizing",
    )  # fmt: skip
    last = _wait_for(runtime, results[3].id, lambda found: True)
    assert results[0].info == {"current": 3, "total": 8, "status": "resizing"}
    mark.touch()
    assert (last.status, last.condition) == (progress.Status.PENDING, progress.Condition.OK)
    for result in results:
        assert _wait_for_end(runtime, result.id).status is progress.Status.COMPLETED


@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize("pool", POOLS)
def test_retries_are_attempts_of_one_run(workers: Workers, runtime: progress.Runtime, pool: str) -> None:
    """The members of a group count once, also while they wait for a retry."""
    members = group(
        (workers.app.signature("retry", (number,), queue=pool) for number in (0, 1, 3)), app=workers.app
    ).apply_async()
    assert members.get(timeout=PATIENCE_S) == [0, 1, 3]
    found = [_wait_for_end(runtime, result.id) for result in members]
    assert [each.status for each in found] == [progress.Status.COMPLETED] * 3
    assert [(each.root.info.attempt, each.root.current) for each in found] == [(1, 2), (2, 2), (4, 2)]
    batch = runtime.get_batch(members.id)
    assert batch is not None
    assert (batch.total, batch.counts[progress.Status.COMPLETED], batch.status) == (
        3, 3, progress.Status.COMPLETED,
    )  # fmt: skip
    assert batch.finished_count == 3


@pytest.mark.process
@pytest.mark.server
def test_last_attempt_that_fails_ends_the_run_as_failed(workers: Workers, runtime: progress.Runtime) -> None:
    result = _send(workers, "retry", 99)
    found = _wait_for_end(runtime, result.id)
    assert (found.status, found.root.info.attempt) == (progress.Status.FAILED, 6)
    assert found.error is not None
    assert found.error.message == "attempt 5"


@pytest.mark.process
@pytest.mark.server
def test_task_that_waits_for_a_retry_is_pending(workers: Workers, runtime: progress.Runtime) -> None:
    """It has the number of the next attempt, and the reason."""
    result = _send(workers, "later")
    found = _wait_for(
        runtime,
        result.id,
        lambda found: found.status is progress.Status.PENDING and found.root.info.attempt == 2,
    )
    assert found.message == "waits for a retry: ValueError: no answer"
    workers.app.control.revoke(result.id)


@pytest.mark.process
@pytest.mark.server
def test_failure_cancels_the_levels_below(workers: Workers, runtime: progress.Runtime) -> None:
    found = _wait_for_end(runtime, _send(workers, "fail").id)
    assert found.status is progress.Status.FAILED
    assert found.error is not None
    assert (found.error.type, found.error.message) == ("ValueError", "no space left")
    assert [level.status for level in found.levels] == [progress.Status.FAILED]


@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("ignore", progress.Status.SKIPPED),
        ("reject", progress.Status.CANCELLED),
        ("kill", progress.Status.FAILED),
    ],
)
def test_task_without_a_result_ends(
    workers: Workers, runtime: progress.Runtime, how: str, status: progress.Status
) -> None:
    """The main process of the worker ends a task whose process was killed."""
    found = _wait_for_end(runtime, _send(workers, "end", how).id)
    assert found.status is status
    assert (found.root.current, found.root.total) == (1, 2)
    assert all(level.status.finished for level in found.levels)
    if how == "kill":
        assert found.error is not None
        assert found.error.type == "billiard.exceptions.WorkerLostError"


@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_revoked_task_whose_process_is_killed_is_cancelled(
    workers: Workers, runtime: progress.Runtime, tmp_path: Path, number: str
) -> None:
    mark = tmp_path / "never"
    result = _send(workers, "hold", str(mark))
    poll(Path(f"{mark}-{result.id}").exists, PATIENCE_S, "the task")
    workers.app.control.revoke(result.id, terminate=True, signal=number)
    found = _wait_for_end(runtime, result.id)
    assert found.status is progress.Status.CANCELLED
    assert found.root.info.attempt == 1
    assert found.message in {"terminated", f"revoked, stopped by {number}"}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize(
    ("limit", "error"), [("soft_time_limit", "SoftTimeLimitExceeded"), ("time_limit", "TimeLimitExceeded")]
)
def test_task_beyond_its_time_limit_fails(
    workers: Workers, runtime: progress.Runtime, tmp_path: Path, limit: str, error: str
) -> None:
    result = _send(workers, "hold", str(tmp_path / "never"), **{limit: 1})
    found = _wait_for(runtime, result.id, lambda found: found.status is progress.Status.FAILED)
    assert found.error is not None
    assert found.error.type == f"billiard.exceptions.{error}"


@pytest.mark.process
@pytest.mark.server
def test_task_whose_process_exits_fails(workers: Workers, runtime: progress.Runtime) -> None:
    """The process reports a cancelled operation, and Celery a failed task."""
    result = _send(workers, "exit")
    found = _wait_for(runtime, result.id, lambda found: found.status is progress.Status.FAILED)
    assert found.error is not None
    assert found.error.type == "billiard.exceptions.WorkerLostError"


@pytest.mark.process
@pytest.mark.server
def test_retry_beyond_its_time_limit_fails(
    workers: Workers, runtime: progress.Runtime, tmp_path: Path
) -> None:
    result = _send(workers, "hold_retry", str(tmp_path / "never"), time_limit=1)
    found = _wait_for(runtime, result.id, lambda found: found.status is progress.Status.FAILED)
    assert found.root.info.attempt == 2
    assert found.error is not None
    assert found.error.type == "billiard.exceptions.TimeLimitExceeded"


@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize("broken", ["fail", "ignore", "revoke", "limit"])
def test_canvas_whose_task_does_not_complete_ends(
    workers: Workers, runtime: progress.Runtime, broken: str, tmp_path: Path
) -> None:
    """The tasks that never run are cancelled, so the batches are complete."""
    app = workers.app
    one = app.signature("one", queue="prefork")
    first = {
        "fail": app.signature("fail", queue="prefork"),
        "ignore": app.signature("end", ("ignore",), queue="prefork", immutable=True),
        "revoke": app.signature("one", queue="prefork", expires=0.001, countdown=0.05),
        "limit": app.signature("hold", (str(tmp_path / "no"),), queue="prefork", time_limit=1),
    }[broken]
    links = chain(first.clone(), one.clone(), one.clone(), app=app).apply_async()
    lines = group([chain(first.clone(), one.clone(), app=app), one.clone()], app=app).apply_async()
    batches = [(f"chain-{links.parent.parent.id}", 3, 0), (lines.id, 2, 1)]
    if broken != "ignore":  # Celery waits for the task then, too
        parts = chord([first.clone(), first.clone(), one.clone()], one.clone(), app=app).apply_async()
        batches.append((parts.parent.id, 4, 1))
    for batch_id, total, completed in batches:

        def is_complete(batch_id: str = batch_id) -> bool:
            found = runtime.get_batch(batch_id)
            return found is not None and found.is_finished

        poll(is_complete, PATIENCE_S, batch_id)
        batch = runtime.get_batch(batch_id)
        assert batch is not None
        assert (batch.total, batch.finished_count) == (total, total)
        assert batch.counts[progress.Status.COMPLETED] == completed
    last = _wait_for_end(runtime, links.id)
    assert (last.operation_type, last.status) == ("one", progress.Status.CANCELLED)
    assert last.message == "an earlier task of the chain did not complete"


@pytest.mark.process
@pytest.mark.server
@pytest.mark.parametrize("pool", POOLS)
def test_task_that_is_revoked_or_expires_in_the_queue_is_cancelled(
    workers: Workers, runtime: progress.Runtime, tmp_path: Path, pool: str
) -> None:
    mark = tmp_path / "go"
    running_tasks = [_send(workers, "hold", str(mark), pool=pool) for _ in range(2)]
    expired = _send(workers, "count", 1, pool=pool, expires=0.001)
    revoked = _send(workers, "count", 1, pool=pool)
    if pool == "prefork":
        workers.app.control.revoke(revoked.id)
    mark.touch()
    assert (_wait_for_end(runtime, expired.id).status, _wait_for_end(runtime, expired.id).message) == (
        progress.Status.CANCELLED, "expired",
    )  # fmt: skip
    if pool == "prefork":
        found = _wait_for_end(runtime, revoked.id)
        assert (found.status, found.message) == (progress.Status.CANCELLED, "revoked")
    for result in running_tasks:
        assert _wait_for_end(runtime, result.id).status is progress.Status.COMPLETED


@pytest.mark.process
@pytest.mark.server
def test_task_that_is_delivered_again_continues_the_run(
    workers: Workers, runtime: progress.Runtime, tmp_path: Path
) -> None:
    """Its process was killed before the message was acknowledged."""
    result = _send(workers, "die_once", str(tmp_path / "mark"))
    found = _wait_for(runtime, result.id, lambda found: found.status is progress.Status.COMPLETED)
    assert found.root.info.attempt == 1
    assert [(level.info.name, level.current) for level in found.levels] == [("units", 2)]
    assert len([each for each in runtime.get_history("die_once", 100) if each.operation_id == result.id]) == 1


@pytest.mark.process
@pytest.mark.server
def test_cancel_request_stops_a_running_and_a_pending_task(
    workers: Workers, runtime: progress.Runtime, tmp_path: Path
) -> None:
    marks = [tmp_path / str(number) for number in range(4)]
    results = [_send(workers, "loop", str(mark)) for mark in marks]
    poll(marks[0].exists, PATIENCE_S, "the first task")
    runtime.force_flush()
    for result in results:
        assert runtime.request_cancel(result.id, "not needed")
    for result in results:
        found = _wait_for_end(runtime, result.id)
        assert (found.status, found.message) == (progress.Status.CANCELLED, "not needed")


@pytest.mark.process
@pytest.mark.server
def test_replaced_task_continues_the_run(workers: Workers, runtime: progress.Runtime) -> None:
    result = _send(workers, "replace")
    found = _wait_for(runtime, result.id, lambda found: found.status is progress.Status.COMPLETED)
    assert (found.operation_type, found.root.info.attempt) == ("count", 2)
    assert found.root.info.parent is None


@pytest.mark.process
@pytest.mark.server
def test_task_that_a_task_sends_is_below_its_level(workers: Workers, runtime: progress.Runtime) -> None:
    result = _send(workers, "send")
    child = _wait_for_end(runtime, result.get(timeout=PATIENCE_S))
    assert child.root.info.parent is not None
    assert (child.root.info.parent.operation_id, child.root.info.parent.path) == (result.id, "part:a")
    assert child.root.info.trace_id == _wait_for_end(runtime, result.id).root.info.trace_id


@pytest.mark.process
@pytest.mark.server
def test_end_is_stored_although_the_process_is_killed_right_after_it(
    workers: Workers, runtime: progress.Runtime
) -> None:
    """The receiver of the test kills the process in the signal that follows the end."""
    result = _send(workers, "die_after")
    found = _wait_for_end(runtime, result.id)
    assert found.status is progress.Status.COMPLETED


@pytest.mark.process
@pytest.mark.server
def test_canvas_is_counted_exactly(workers: Workers, runtime: progress.Runtime) -> None:
    app = workers.app
    one = app.signature("one", queue="prefork")
    parts = chord([one.clone() for _ in range(4)], one.clone(), app=app).apply_async()
    links = chain(one.clone(), one.clone(), one.clone(), app=app).apply_async()
    mapped = app.signature(
        "celery.map", kwargs={"task": one.clone(), "it": [1, 2, 3]}, queue="prefork"
    ).apply_async()
    for result in (parts, links, mapped):
        result.get(timeout=PATIENCE_S)
    first = links.parent.parent.id
    lines = group([chain(one.clone(), one.clone(), app=app) for _ in range(2)], app=app).apply_async()
    split = chord([one.clone() for _ in range(2)], group([one.clone() for _ in range(3)], app=app), app=app)
    halves = split.apply_async()
    for result in (lines, halves):
        result.get(timeout=PATIENCE_S)
    batches = [
        ("celery.chord", parts.parent.id, 5),
        ("celery.chain", f"chain-{first}", 3),
        ("celery.group", lines.id, 2),
        ("celery.chord", halves.parent.id, 5),
    ]
    for kind, batch_id, total in batches:

        def is_complete(batch_id: str = batch_id) -> bool:
            found = runtime.get_batch(batch_id)
            return found is not None and found.is_finished

        poll(is_complete, PATIENCE_S, kind)
        batch = runtime.get_batch(batch_id)
        assert batch is not None
        assert (batch.type, batch.total, batch.finished_count, batch.status) == (
            kind, total, total, progress.Status.COMPLETED,
        )  # fmt: skip
    found = _wait_for_end(runtime, mapped.id)
    assert (found.name, found.root.current, found.root.total) == ("one", 3, 3)
    second = _wait_for_end(runtime, links.parent.id)
    assert second.root.info.parent is not None
    assert second.root.info.parent.operation_id == first


@pytest.mark.process
@pytest.mark.server
def test_hundreds_of_tasks_leave_nothing_in_the_workers(workers: Workers, runtime: progress.Runtime) -> None:
    """Each one is stored once, and the workers log no problem."""
    results = [_send(workers, "one") for _ in range(100)]
    for result in results:
        result.get(timeout=PATIENCE_S)
    wanted = {result.id for result in results}

    def is_stored() -> bool:
        stored = [each.operation_id for each in runtime.get_history("one", 1_000)]
        assert len(stored) == len(set(stored))
        return wanted <= set(stored)

    poll(is_stored, PATIENCE_S, "100 operations")
    assert "only counted" not in workers.read_logs()  # in each warning of ours
    assert not [each for each in runtime.reader.active() if each.operation_id in wanted]
