"""Huey tasks as operations, with the real library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huey", reason="huey is not installed: these tests run the real one")

from huey import CancelExecution, MemoryHuey, crontab

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.integrations import huey as integration
from otel_progress.operations import OperationSnapshot


@pytest.fixture
def huey() -> Iterator[Any]:
    """Queue in the memory of the test. The test executes its tasks."""
    made = MemoryHuey("test", utc=True)
    integration.instrument(made)
    integration.instrument(made)
    yield made
    integration.uninstrument(made)
    integration.uninstrument(made)
    assert integration._executions == {}
    assert internal_error_counts == {}


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[progress.Runtime]:
    """The configuration, with a journal."""
    store = f"sqlite:////{str(tmp_path / 'progress.db').lstrip('/')}"
    with progress.configure(service_name="huey", store=store, console=False) as made:
        yield made


def _execute_next(huey: Any) -> None:
    task = huey.dequeue()
    assert task is not None
    huey.execute(task)


def _get(runtime: progress.Runtime, operation_id: str) -> OperationSnapshot:
    assert runtime.force_flush()
    found = runtime.reader.get(operation_id)
    assert found is not None
    return found


def test_task_is_pending_and_then_the_current_level(runtime: progress.Runtime, huey: Any) -> None:
    @huey.task()
    def resize(number: int) -> str:
        for _ in progress.track(range(number), "files"):
            pass
        return progress.current_level().operation_id

    result = resize(3)
    found = _get(runtime, result.id)
    assert (found.status, found.operation_type) == (progress.Status.PENDING, "resize")
    _execute_next(huey)
    assert result.get() == result.id
    found = _get(runtime, result.id)
    assert found.status is progress.Status.COMPLETED
    assert [(level.info.name, level.current) for level in found.levels] == [("files", 3)]
    assert not progress.current_level().recording


def test_retries_are_attempts_of_one_run(runtime: progress.Runtime, huey: Any) -> None:
    @huey.task(retries=2)
    def fail() -> None:
        raise ValueError("no space left")

    result = fail()
    seen = []
    for _ in range(3):
        _execute_next(huey)
        found = _get(runtime, result.id)
        stored = runtime.reader.history(operation_type="fail")
        seen.append((found.root.info.attempt, len({each.run for each in stored})))
    assert seen == [(1, 1), (2, 1), (3, 1)]
    assert found.status is progress.Status.FAILED
    assert found.error is not None
    assert found.error.message == "no space left"


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("revoked", progress.Status.CANCELLED, "revoked"),
        ("expired", progress.Status.CANCELLED, "expired"),
        ("cancelled", progress.Status.CANCELLED, "cancelled"),
    ],
)
def test_task_without_a_result_is_cancelled(
    runtime: progress.Runtime, huey: Any, how: str, status: progress.Status, message: str
) -> None:
    @huey.task()
    def end() -> None:
        raise CancelExecution(retry=False)

    result = end.schedule(delay=0, expires=-1) if how == "expired" else end()
    if how == "revoked":
        result.revoke()
    _execute_next(huey)
    found = _get(runtime, result.id)
    assert (found.status, found.message) == (status, message)


def test_periodic_task_is_a_new_operation_at_each_run(runtime: progress.Runtime, huey: Any) -> None:
    @huey.periodic_task(crontab(minute="0"))
    def clean() -> None: ...

    for _ in range(2):
        huey.execute(clean.task_class())
    assert runtime.force_flush()
    assert len(runtime.get_history("clean")) == 2


def test_tasks_run_as_before_without_a_configuration(huey: Any) -> None:
    @huey.task()
    def plain() -> bool:
        return progress.current_level().recording

    result = plain()
    _execute_next(huey)
    assert result.get() is False
