"""Taskiq tasks as operations, with the real library and its broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("taskiq", reason="taskiq is not installed: these tests run the real one")

from taskiq import InMemoryBroker, SimpleRetryMiddleware

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.integrations.taskiq import ProgressMiddleware
from otel_progress.operations import OperationSnapshot


@pytest.fixture
def middleware() -> Iterator[ProgressMiddleware]:
    made = ProgressMiddleware()
    yield made
    assert made._executions == {}
    assert internal_error_counts == {}


@pytest.fixture(params=["first", "last"])
def broker(middleware: ProgressMiddleware, request: pytest.FixtureRequest) -> Any:
    """Broker in the memory of the test, which awaits each task."""
    middlewares = [middleware, SimpleRetryMiddleware(default_retry_count=4)]
    ordered = middlewares if request.param == "first" else reversed(middlewares)
    return InMemoryBroker(await_inplace=True).with_middlewares(*ordered)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[progress.Runtime]:
    """The configuration, with a journal."""
    store = f"sqlite:////{str(tmp_path / 'progress.db').lstrip('/')}"
    with progress.configure(service_name="taskiq", store=store, console=False) as made:
        yield made


def _get(runtime: progress.Runtime, operation_id: str) -> OperationSnapshot:
    assert runtime.force_flush()
    found = runtime.reader.get(operation_id)
    assert found is not None
    return found


@pytest.mark.parametrize("is_async", [True, False])
def test_task_is_the_current_level(runtime: progress.Runtime, broker: Any, is_async: bool) -> None:
    """It is part of the level that sent it, with its trace."""

    def count(number: int) -> str:
        for _ in progress.track(range(number), "files"):
            pass
        return progress.current_level().operation_id

    async def count_async(number: int) -> str:
        await asyncio.sleep(0)
        return count(number)

    task = broker.register_task(count_async if is_async else count, task_name="resize")

    async def send() -> tuple[Any, str]:
        await broker.startup()
        with progress.operation("import", id="import-7") as op:
            sent = await task.kiq(3)
            trace_id = f"{op.span.get_span_context().trace_id:032x}"
            assert progress.current_level().operation_id == "import-7"
        result = await sent.wait_result(timeout=30)
        await broker.shutdown()
        assert result.return_value == sent.task_id
        return sent, trace_id

    sent, trace_id = asyncio.run(send())
    found = _get(runtime, sent.task_id)
    assert (found.status, found.operation_type) == (progress.Status.COMPLETED, "resize")
    assert [(level.info.name, level.current) for level in found.levels] == [("files", 3)]
    assert found.root.info.parent is not None
    assert (found.root.info.parent.operation_id, found.root.info.trace_id) == ("import-7", trace_id)


@pytest.mark.parametrize(
    ("failures", "status"), [(2, progress.Status.COMPLETED), (9, progress.Status.FAILED)]
)
def test_retries_are_attempts_of_one_run(
    runtime: progress.Runtime, broker: Any, failures: int, status: progress.Status
) -> None:
    count = 0

    @broker.task(task_name="retry", retry_on_error=True)
    async def retry() -> None:
        nonlocal count
        count += 1
        if count <= failures:
            raise ValueError(f"attempt {count}")

    async def send() -> str:
        sent = await retry.kiq()
        return str(sent.task_id)

    found = _get(runtime, asyncio.run(send()))
    assert (found.status, found.root.info.attempt) == (status, count)
    assert len({each.run for each in runtime.reader.history(operation_type="retry")}) == 1


def test_tasks_run_as_before_without_a_configuration(broker: Any) -> None:
    @broker.task(task_name="plain")
    async def plain() -> bool:
        return progress.current_level().recording

    async def send() -> Any:
        sent = await plain.kiq()
        return await sent.wait_result(timeout=30)

    result = asyncio.run(send())
    assert (result.return_value, result.labels) == (False, {})
