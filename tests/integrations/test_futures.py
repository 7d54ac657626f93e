"""Progress of futures that exist already."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import diagnostics
from otel_progress.instrument.level import Level
from otel_progress.integrations.futures import follow_futures
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder, wait_until

TIMEOUT_S = 60.0


def read_only_operation() -> OperationSnapshot:
    # Why: a future is done before its callbacks have run.
    wait_until(lambda: not progress.get_active_operations(), TIMEOUT_S)
    (operation,) = progress.get_history()
    return operation


def exit_process() -> None:
    os._exit(1)


def divide(number: int) -> float:
    return 1 / number


@pytest.mark.usefixtures("recorder")
def test_follow_futures_counts_them_when_they_are_done() -> None:
    released = threading.Event()
    with ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(pow, 2, 3), executor.submit(released.wait, TIMEOUT_S)]
        level = follow_futures(futures, "powers")
        wait_until(lambda: level.snapshot().current == 1, TIMEOUT_S)
        assert (level.snapshot().total, level.recording) == (2, True)
        released.set()
    operation = read_only_operation()
    assert (operation.operation_type, operation.name, operation.status) == (
        "futures",
        "powers",
        Status.COMPLETED,
    )
    assert (operation.root.current, operation.root.total) == (2, 2)


def test_follow_futures_below_a_level_is_a_level(recorder: Recorder) -> None:
    with progress.operation("report", id="r-1"), ThreadPoolExecutor(2) as executor:
        wait([executor.submit(pow, 2, 3)])
        level = follow_futures([executor.submit(pow, 2, 3) for _ in range(5)])
        wait_until(lambda: not level.recording, TIMEOUT_S)
    (found,) = recorder.operation("r-1").levels
    assert (found.path, found.current, found.status) == ("futures:1", 5, Status.COMPLETED)


def test_follow_futures_with_a_level_is_its_child(recorder: Recorder) -> None:
    op = progress.operation("report", id="r-2").start()
    with ThreadPoolExecutor(1) as executor:
        level = follow_futures([executor.submit(pow, 2, 3)], level=op)
        wait_until(lambda: not level.recording, TIMEOUT_S)
    op.complete()
    assert [found.path for found in recorder.operation("r-2").levels] == ["futures:1"]


@pytest.mark.usefixtures("recorder")
def test_failed_futures_are_failed_items() -> None:
    with ThreadPoolExecutor(2) as executor:
        follow_futures([executor.submit(divide, number) for number in range(3)])
    operation = read_only_operation()
    assert (operation.status, operation.root.current, operation.root.failed) == (Status.COMPLETED, 3, 1)
    (event,) = progress.get_events(operation.operation_id)
    assert event.error is not None
    assert (event.name, event.error.type) == ("future 1", "ZeroDivisionError")


@pytest.mark.usefixtures("recorder")
def test_all_futures_failed_fails_the_level() -> None:
    with ThreadPoolExecutor(2) as executor:
        follow_futures([executor.submit(divide, 0) for _ in range(3)])
    operation = read_only_operation()
    assert (operation.status, operation.root.failed) == (Status.FAILED, 3)
    assert operation.error is not None
    assert operation.error.type == "ZeroDivisionError"


@pytest.mark.usefixtures("recorder")
def test_cancelled_future_cancels_the_level() -> None:
    released = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        futures = [executor.submit(released.wait, TIMEOUT_S) for _ in range(5)]
        follow_futures(futures)
        executor.shutdown(wait=False, cancel_futures=True)
        released.set()
    operation = read_only_operation()
    assert (operation.status, operation.root.current, operation.root.skipped) == (Status.CANCELLED, 5, 4)


@pytest.mark.usefixtures("recorder")
def test_futures_that_are_done_count_at_once() -> None:
    future: Future[int] = Future()
    future.set_result(1)
    level = follow_futures(iter([future, future]))
    assert (level.snapshot().current, level.snapshot().total, level.recording) == (1, 1, False)
    assert read_only_operation().status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_follow_futures_without_futures_completes() -> None:
    follow_futures([])
    operation = read_only_operation()
    assert (operation.status, operation.root.total) == (Status.COMPLETED, 0)


@pytest.mark.parametrize("futures", [[5], [None], ["text"]])
@pytest.mark.usefixtures("recorder")
def test_element_that_is_not_a_future_raises_and_records_nothing(futures: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a concurrent\.futures\.Future"):
        follow_futures(futures)
    assert progress.get_active_operations() == progress.get_history() == []


def test_asyncio_future_raises_with_the_fix() -> None:
    async def run() -> None:
        with pytest.raises(TypeError, match="as_completed"):
            follow_futures([asyncio.get_running_loop().create_future()])  # type: ignore[list-item]

    asyncio.run(run())


@pytest.mark.usefixtures("recorder")
def test_interrupt_in_a_future_is_a_failed_item() -> None:
    future: Future[int] = Future()
    follow_futures([future])
    future.set_exception(KeyboardInterrupt())
    assert read_only_operation().root.failed == 1


@pytest.mark.usefixtures("lenient")
def test_internal_error_does_not_reach_the_executor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Level, "increment", fail)
    future: Future[int] = Future()
    level = follow_futures([future])
    future.set_result(1)
    assert diagnostics.internal_error_counts["integration"] == 1
    assert [record.name for record in caplog.records] == ["otel_progress"]
    level.cancel()


def test_follow_futures_without_configuration_does_nothing() -> None:
    future: Future[int] = Future()
    assert not follow_futures([future]).recording
    future.set_result(1)


@pytest.mark.process
@pytest.mark.usefixtures("recorder")
def test_broken_pool_fails_the_level() -> None:
    with ProcessPoolExecutor(1) as executor:
        futures = [executor.submit(abs, -1)]
        wait(futures)
        futures += [executor.submit(exit_process), executor.submit(abs, -1)]
        follow_futures(futures)
    with pytest.raises(BrokenProcessPool):
        futures[1].result()
    operation = read_only_operation()
    assert operation.status is Status.FAILED
    assert operation.error is not None
    assert operation.error.type.endswith("BrokenProcessPool")
