"""RQ jobs as operations, with a real broker and real workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rq", reason="rq is not installed: these tests run the real one")

from redis import Redis
from rq import Queue, Retry, SimpleWorker
from rq.command import send_stop_job_command

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.integrations import rq as integration
from otel_progress.integrations.tasks import RUN_HEADER
from otel_progress.operations import OperationSnapshot
from tests.support.programs import rq_jobs
from tests.support.redis_servers import RedisServer, create_name, running_redis
from tests.support.servers import poll, running

pytestmark = [pytest.mark.process, pytest.mark.server]

PATIENCE_S = 30.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The broker, which is also the server of the journal."""
    with running_redis(tmp_path_factory.mktemp("rq")) as made:
        yield made


@pytest.fixture
def connection(server: RedisServer) -> Iterator[Any]:
    made = Redis.from_url(server.url)
    yield made
    made.close()


@pytest.fixture
def instrumented() -> Iterator[None]:
    """The integration in the process of the test."""
    integration.instrument()
    integration.instrument()
    yield
    integration.uninstrument()
    integration.uninstrument()
    assert integration._executions == {}
    assert internal_error_counts == {}


@pytest.fixture(scope="module")
def store(server: RedisServer) -> str:
    """URL of the journal."""
    return f"{server.url}?name={create_name()}"


@pytest.fixture
def runtime(store: str, instrumented: None) -> Iterator[progress.Runtime]:
    """The configuration of the sender."""
    with progress.configure(service_name="sender", store=store, console=False) as made:
        yield made


@pytest.fixture(scope="module")
def forking(server: RedisServer, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Queue of a worker that forks for each job."""
    log = tmp_path_factory.mktemp("worker") / "log"
    environ = {
        "BROKER": server.url,
        "OTEL_PROGRESS_STORE": store,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "tests.support.programs.rq_jobs", "forking"]
    with running(
        command, ready=lambda: b"ready" in log.read_bytes(), log=log, env=environ, timeout=PATIENCE_S
    ):
        yield "forking"
    assert "otel_progress" not in log.read_text("utf-8", "replace")


def _wait_for(
    runtime: progress.Runtime, operation_id: str, is_found: Callable[[OperationSnapshot], object]
) -> OperationSnapshot:
    def find() -> OperationSnapshot | None:
        found = runtime.reader.get(operation_id)
        return found if found is not None and is_found(found) else None

    return poll(find, PATIENCE_S, f"operation {operation_id}")


def _wait_for_end(runtime: progress.Runtime, operation_id: str) -> OperationSnapshot:
    return _wait_for(runtime, operation_id, lambda found: found.status.finished)


def test_job_is_pending_and_then_the_current_level(runtime: progress.Runtime, connection: Any) -> None:
    """It is part of the level that sent it, with its trace."""
    queue = Queue("simple", connection=connection)
    with progress.operation("import", id="import-7") as op:
        job = queue.enqueue(rq_jobs.count, 3)
        trace_id = f"{op.span.get_span_context().trace_id:032x}"
    found = _wait_for(runtime, job.id, lambda found: True)
    assert found.status is progress.Status.PENDING
    SimpleWorker([queue], connection=connection).work(burst=True)
    assert job.return_value() == job.id
    found = _wait_for_end(runtime, job.id)
    assert (found.status, found.operation_type) == (
        progress.Status.COMPLETED, "tests.support.programs.rq_jobs.count",
    )  # fmt: skip
    assert [(level.info.name, level.current) for level in found.levels] == [("files", 3)]
    assert found.root.info.parent is not None
    assert (found.root.info.parent.operation_id, found.root.info.trace_id) == ("import-7", trace_id)
    assert not progress.current_level().recording


def test_failed_job_has_its_error(runtime: progress.Runtime, connection: Any) -> None:
    queue = Queue("simple", connection=connection)
    job = queue.enqueue(rq_jobs.fail)
    SimpleWorker([queue], connection=connection).work(burst=True)
    found = _wait_for_end(runtime, job.id)
    assert found.status is progress.Status.FAILED
    assert found.error is not None
    assert (found.error.type, found.error.message) == ("ValueError", "no space left")


def test_retry_is_the_next_attempt(runtime: progress.Runtime, connection: Any, tmp_path: Path) -> None:
    queue = Queue("simple", connection=connection)
    job = queue.enqueue(rq_jobs.fail_once, str(tmp_path / "mark"), retry=Retry(max=2))
    SimpleWorker([queue], connection=connection).work(burst=True)
    found = _wait_for(runtime, job.id, lambda found: found.status is progress.Status.COMPLETED)
    assert (found.root.info.attempt, found.root.current) == (2, 1)
    found = runtime.reader.history(operation_type="tests.support.programs.rq_jobs.fail_once")
    assert len({each.run for each in found}) == 1


def test_cancelled_job_is_cancelled(runtime: progress.Runtime, connection: Any) -> None:
    job = Queue("simple", connection=connection).enqueue(rq_jobs.fail)
    job.cancel()
    found = _wait_for_end(runtime, job.id)
    assert (found.status, found.message) == (progress.Status.CANCELLED, "cancelled")


def test_job_of_a_forking_worker_is_stored(runtime: progress.Runtime, connection: Any, forking: str) -> None:
    """Its process exits at once after the job."""
    queue = Queue(forking, connection=connection)
    jobs = [queue.enqueue(rq_jobs.count, 2) for _ in range(5)]
    for job in jobs:
        found = _wait_for_end(runtime, job.id)
        assert found.status is progress.Status.COMPLETED
        assert [(level.info.name, level.current) for level in found.levels] == [("files", 2)]


def test_job_whose_process_is_killed_fails(runtime: progress.Runtime, connection: Any, forking: str) -> None:
    job = Queue(forking, connection=connection).enqueue(rq_jobs.die)
    found = _wait_for_end(runtime, job.id)
    assert (found.status, found.root.current, found.root.info.attempt) == (progress.Status.FAILED, 1, 1)
    assert found.error is not None
    assert found.error.message == "the work horse was killed"


def test_stopped_job_is_cancelled(
    runtime: progress.Runtime, connection: Any, forking: str, tmp_path: Path
) -> None:
    job = Queue(forking, connection=connection).enqueue(rq_jobs.hold, str(tmp_path / "mark"))
    poll((tmp_path / "mark").exists, PATIENCE_S, "the job")
    send_stop_job_command(connection, job.id)
    found = _wait_for_end(runtime, job.id)
    assert found.status is progress.Status.CANCELLED


def test_jobs_are_as_before_without_a_configuration(connection: Any, instrumented: None) -> None:
    queue = Queue("plain", connection=connection)
    job = queue.enqueue(rq_jobs.count, 1)
    assert RUN_HEADER not in job.meta
    SimpleWorker([queue], connection=connection).work(burst=True)
    assert job.return_value() == ""


def test_uninstrument_restores_the_methods() -> None:
    before = SimpleWorker.perform_job, Queue.enqueue_job
    integration.instrument()
    assert SimpleWorker.perform_job is not before[0]
    integration.uninstrument()
    assert (SimpleWorker.perform_job, Queue.enqueue_job) == before
