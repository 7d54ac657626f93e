"""Progress of Dask: local schedulers and the scheduler of dask.distributed."""

from __future__ import annotations

import asyncio
import logging
import operator
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import diagnostics
from otel_progress.instrument.level import Level
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder, wait_until

dask = pytest.importorskip("dask", reason="dask is not installed: this test runs the real one")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")

from otel_progress.integrations import dask as integration  # noqa: E402
from otel_progress.integrations import distributed as cluster_integration  # noqa: E402

ProgressCallback, follow_client = integration.ProgressCallback, cluster_integration.follow_client
TIMEOUT_S = 60.0


@pytest.fixture
def instrumented() -> Iterator[None]:
    integration.instrument()
    yield
    integration.uninstrument()


def add_all(*numbers: int) -> int:
    return sum(numbers)


def divide(number: int) -> float:
    return 1 / number


def make_sum(count: int, function: Callable[..., Any] = operator.neg) -> Any:
    """Return a result that depends on ``count`` tasks."""
    return dask.delayed(add_all)(*[dask.delayed(function)(number) for number in range(count)])


def read_operations() -> list[OperationSnapshot]:
    """Return the ended operations with their levels, the first one first."""
    found = [progress.get_operation(operation.operation_id) for operation in progress.get_history()]
    return [operation for operation in reversed(found) if operation is not None]


def read_only_operation() -> OperationSnapshot:
    assert progress.get_active_operations() == []
    (operation,) = read_operations()
    return operation


# --- local schedulers ----------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
@pytest.mark.usefixtures("recorder")
def test_callback_counts_the_tasks(scheduler: str) -> None:
    with ProgressCallback():
        assert make_sum(4).compute(scheduler=scheduler) == -6
    operation = read_only_operation()
    assert (operation.operation_type, operation.name, operation.status) == (
        "dask",
        "add_all",
        Status.COMPLETED,
    )
    assert (operation.root.current, operation.root.total) == (5, 5)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.usefixtures("recorder")
def test_callback_counts_the_tasks_of_processes() -> None:
    with ProgressCallback():
        assert make_sum(4).compute(scheduler="processes", num_workers=1) == -6
    assert read_only_operation().root.current == 5


def test_callback_below_a_level_records_levels(recorder: Recorder) -> None:
    with progress.operation("report", id="r-1"), ProgressCallback("sum of all"):
        for count in (1, 2):
            make_sum(count).compute()
    operation = recorder.operation("r-1")
    assert [(level.info.name, level.current) for level in operation.levels] == [
        ("sum of all", 2),
        ("sum of all", 3),
    ]


@pytest.mark.usefixtures("recorder")
def test_callback_after_an_error_fails_the_level() -> None:
    with ProgressCallback(), pytest.raises(ZeroDivisionError):
        make_sum(1, divide).compute()
    operation = read_only_operation()
    assert (operation.status, operation.root.current, operation.root.total) == (Status.FAILED, 0, 2)
    assert operation.error is not None
    assert operation.error.type == "ZeroDivisionError"


@pytest.mark.usefixtures("recorder")
def test_callback_while_another_exception_is_handled_completes() -> None:
    try:
        raise LookupError
    except LookupError:
        with ProgressCallback():
            make_sum(1).compute()
    assert read_only_operation().status is Status.COMPLETED


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("recorder")
def test_keyboard_interrupt_cancels_the_level() -> None:
    with ProgressCallback(), pytest.raises(KeyboardInterrupt):
        make_sum(1, interrupt).compute(scheduler="sync")
    assert read_only_operation().status is Status.CANCELLED
    assert not progress.current_level().recording


@pytest.mark.usefixtures("lenient")
def test_callback_with_an_internal_error_leaves_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Level, "increment", fail)
    with ProgressCallback():
        assert make_sum(4).compute() == -6
    assert diagnostics.internal_error_counts["integration"] == 5


@pytest.mark.usefixtures("recorder")
def test_registered_callback_is_global() -> None:
    callback = ProgressCallback()
    callback.register()
    try:
        make_sum(2).compute()
    finally:
        callback.unregister()
    make_sum(2).compute()
    assert read_only_operation().root.current == 3


def compute_inside(scheduler: str, number: int) -> int:
    return int(make_sum(number).compute(scheduler=scheduler))


@pytest.mark.parametrize("inner", ["sync", "threads"])
@pytest.mark.parametrize("outer", ["sync", "threads"])
@pytest.mark.usefixtures("instrumented")
@pytest.mark.usefixtures("recorder")
def test_nested_computation_is_a_child(inner: str, outer: str) -> None:
    dask.compute(dask.delayed(compute_inside)(inner, 3), scheduler=outer)
    operation = read_only_operation()
    is_child = outer == "sync" or hasattr(dask.threaded, "ContextAwareThreadPoolExecutor")
    assert [level.current for level in operation.levels] == ([4] if is_child else [])


@pytest.mark.usefixtures("instrumented")
@pytest.mark.usefixtures("recorder")
def test_nested_computation_in_a_worker_without_a_level_is_not_recorded() -> None:
    with ThreadPoolExecutor(2) as pool, dask.config.set(pool=pool):
        dask.compute(*[dask.delayed(compute_inside)("sync", number) for number in (2, 3)])
    operation = read_only_operation()
    assert (operation.root.current, len(operation.levels)) == (2, 0)


@pytest.mark.usefixtures("instrumented")
@pytest.mark.usefixtures("recorder")
def test_instrument_records_computations_of_several_threads() -> None:
    gate = threading.Barrier(3)

    def work() -> None:
        def wait(_: int) -> int:
            gate.wait(TIMEOUT_S)
            return 1

        make_sum(1, wait).compute(scheduler="sync")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    make_sum(1).compute()
    assert [operation.root.current for operation in read_operations()] == [2] * 4


@pytest.mark.usefixtures("instrumented")
@pytest.mark.usefixtures("recorder")
def test_instrument_with_a_callback_of_the_program_records_once() -> None:
    integration.instrument()
    with ProgressCallback("mine"):
        make_sum(1).compute()
    assert read_only_operation().name == "mine"


@pytest.mark.usefixtures("recorder")
def test_uninstrument_stops_recording() -> None:
    replaced = dask.local.local_callbacks
    integration.instrument()
    integration.uninstrument()
    integration.uninstrument()
    make_sum(1).compute()
    assert read_operations() == []
    assert dask.local.local_callbacks is replaced


@pytest.mark.usefixtures("instrumented")
def test_computation_without_configuration_is_unchanged() -> None:
    assert make_sum(4).compute() == -6


def test_instrumentor_activates_and_deactivates() -> None:
    pytest.importorskip("opentelemetry.instrumentation.instrumentor", reason="it is its base class")
    from otel_progress.integrations.instrumentors import DaskInstrumentor

    instrumentor = DaskInstrumentor()
    instrumentor.instrument()
    assert integration._patches
    instrumentor.uninstrument()
    assert not integration._patches


# --- dask.distributed ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Run a scheduler and workers in this process."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(processes=False, **options) as running:
        yield running


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as connected:
        yield connected


def wait_for_ends() -> None:
    wait_until(lambda: not progress.get_active_operations(), TIMEOUT_S)


@pytest.mark.usefixtures("recorder")
def test_graph_of_a_client_is_an_operation(client: Any) -> None:
    with follow_client(client):
        assert client.gather(client.map(operator.neg, range(10))) == [-number for number in range(10)]
        # Why without a wait: the client receives the end of a graph before the results.
        operation = read_only_operation()
    assert (operation.operation_type, operation.name, operation.status) == ("dask", "neg", Status.COMPLETED)
    assert (operation.root.current, operation.root.total) == (10, 10)


def test_graph_below_a_level_is_a_level(recorder: Recorder, client: Any) -> None:
    with progress.operation("report", id="r-2"), follow_client(client):
        make_sum(3).compute()
        client.submit(operator.neg, 1, pure=False).result()
    levels = recorder.operation("r-2").levels
    assert [(level.info.name, level.current, level.total) for level in levels] == [
        ("add_all", 4, 4),
        ("neg", 1, 1),
    ]


@pytest.mark.usefixtures("recorder")
def test_graph_counts_while_tasks_run(client: Any) -> None:
    released = distributed.Event(client=client)

    def wait(number: int) -> int:
        if number:
            distributed.Event("released").wait(TIMEOUT_S)
        return number

    released = distributed.Event("released", client=client)
    with follow_client(client):
        futures = client.map(wait, range(2))
        wait_until(
            lambda: [operation.root.current for operation in progress.get_active_operations()] == [1],
            TIMEOUT_S,
        )
        assert progress.get_active_operations()[0].ratio == 0.5
        released.set()
        client.gather(futures)
    assert read_only_operation().root.current == 2


@pytest.mark.usefixtures("recorder")
def test_task_with_an_error_fails_the_graph(client: Any) -> None:
    with follow_client(client):
        futures = client.map(divide, range(3), pure=False)
        distributed.wait(futures)
        operation = read_only_operation()
    assert operation.status is Status.FAILED
    assert (operation.root.current, operation.root.failed, operation.root.total) == (3, 1, 3)
    assert operation.error is not None
    assert (operation.error.type, operation.error.message) == ("ZeroDivisionError", "division by zero")
    (event,) = progress.get_events(operation.operation_id)
    assert event.name is not None
    assert event.name.startswith("divide-")


@pytest.mark.usefixtures("recorder")
def test_task_after_a_failed_one_is_not_counted(client: Any) -> None:
    with follow_client(client), pytest.raises(ZeroDivisionError):
        make_sum(1, divide).compute()
    operation = read_only_operation()
    assert (operation.root.current, operation.root.failed, operation.root.total) == (1, 1, 2)


@pytest.mark.usefixtures("recorder")
def test_task_that_is_not_needed_does_not_keep_the_graph_running(client: Any) -> None:
    first = dask.delayed(operator.neg)(1, dask_key_name="first")
    second = dask.delayed(operator.neg)(first, dask_key_name="second")
    known = client.compute(second)
    assert known.result() == 1
    with follow_client(client):
        assert client.compute(dask.delayed(operator.neg)(second, dask_key_name="third")).result() == -1
        wait_for_ends()
    operation = read_only_operation()
    assert (operation.status, operation.root.current, operation.root.total) == (Status.COMPLETED, 1, 1)


@pytest.mark.usefixtures("recorder")
def test_many_failures_arrive_in_several_events(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_integration, "INTERVAL_S", TIMEOUT_S)
    count = cluster_integration.MAX_FAILURES_PER_EVENT * 2 + 5
    with follow_client(client):
        distributed.wait(client.map(divide, [0] * count, pure=False))
        wait_for_ends()
    assert read_only_operation().root.failed == count


@pytest.mark.usefixtures("recorder")
def test_cancelled_futures_cancel_the_graph(client: Any) -> None:
    blocked = distributed.Event("never", client=client)
    with follow_client(client):
        futures = client.map(lambda _: distributed.Event("never").wait(TIMEOUT_S), range(4))
        wait_until(progress.get_active_operations, TIMEOUT_S)
        client.cancel(futures)
        wait_for_ends()
        blocked.set()
    operation = read_only_operation()
    assert (operation.status, operation.root.current) == (Status.CANCELLED, 0)


@pytest.mark.usefixtures("recorder")
def test_graph_with_known_results_counts_the_other_tasks(client: Any) -> None:
    futures = client.map(operator.neg, range(100, 105))
    client.gather(futures)
    with follow_client(client):
        client.gather(client.map(operator.neg, range(100, 108)))
        client.gather(futures)
    operation = read_only_operation()
    assert (operation.root.current, operation.root.total) == (3, 3)


@pytest.mark.usefixtures("recorder")
def test_retried_task_is_counted_once(client: Any, tmp_path: Path) -> None:
    def fail_once(path: str) -> int:
        if not os.path.exists(path):  # noqa: PTH110
            with open(path, "w"):  # noqa: PTH123
                pass
            raise OSError("try again")
        return 1

    with follow_client(client):
        assert client.submit(fail_once, str(tmp_path / "tried"), retries=2).result() == 1
    operation = read_only_operation()
    assert (operation.status, operation.root.current, operation.root.failed) == (Status.COMPLETED, 1, 0)


@pytest.mark.usefixtures("recorder")
def test_end_of_the_block_cancels_running_graphs(client: Any, cluster: Any) -> None:
    blocked = distributed.Event("later", client=client)
    with follow_client(client):
        future = client.submit(lambda: distributed.Event("later").wait(TIMEOUT_S))
        wait_until(progress.get_active_operations, TIMEOUT_S)
    assert read_only_operation().status is Status.CANCELLED
    blocked.set()
    assert future.result()
    assert not any(name.startswith("otel-progress") for name in cluster.scheduler.plugins)


def test_nested_blocks_record_a_graph_once(recorder: Recorder, client: Any) -> None:
    with follow_client(client):
        with progress.operation("inner", id="i-1"), follow_client(client):
            client.submit(operator.neg, 1, pure=False).result()
        client.submit(operator.neg, 1, pure=False).result()
    assert len(recorder.operation("i-1").levels) == 1
    assert [operation.operation_type for operation in read_operations()] == ["inner", "dask"]


@pytest.mark.usefixtures("recorder")
def test_closed_client_removes_the_plugin(cluster: Any) -> None:
    with distributed.Client(cluster) as client, follow_client(client):
        client.submit(operator.neg, 1, pure=False).result()
        client.close()
    wait_until(lambda: not [name for name in cluster.scheduler.plugins if "otel" in name], TIMEOUT_S)
    assert read_only_operation().status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_graph_of_another_client_is_not_recorded(client: Any, cluster: Any) -> None:
    with distributed.Client(cluster, set_as_default=False) as other, follow_client(client):
        other.submit(operator.neg, 1, pure=False).result()
    assert read_operations() == []


@pytest.mark.usefixtures("lenient")
def test_scheduler_without_the_package_reports_it(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def register_plugin(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'otel_progress'")

    monkeypatch.setattr(client, "register_plugin", register_plugin)
    with follow_client(client):
        assert client.submit(operator.neg, 1, pure=False).result() == -1
    assert read_operations() == []
    assert diagnostics.internal_error_counts["integration"] == 1


@pytest.mark.usefixtures("recorder")
def test_asynchronous_client_is_followed(cluster: Any) -> None:
    async def run() -> None:
        async with distributed.Client(cluster.scheduler_address, asynchronous=True) as client:
            with pytest.raises(TypeError, match="async with"), follow_client(client):
                pass
            async with follow_client(client):
                assert await client.submit(operator.neg, 1, pure=False) == -1

    asyncio.run(run())
    assert read_only_operation().root.current == 1


def exit_once(path: str) -> int:
    if not Path(path).exists():
        Path(path).touch()
        os._exit(1)
    return 1


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.usefixtures("recorder")
def test_lost_worker_is_counted_once(tmp_path: Path) -> None:
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(processes=True, **options) as cluster,
        distributed.Client(cluster) as client,
        follow_client(client),
    ):
        done = client.map(operator.neg, range(20))
        client.gather(done)
        assert client.submit(exit_once, str(tmp_path / "tried")).result() == 1
        assert client.gather(done) == [-number for number in range(20)]
        make_sum(3).compute()
    first, second, third = read_operations()
    for operation, count in ((first, 20), (second, 1), (third, 4)):
        assert (operation.status, operation.root.current, operation.root.total) == (
            Status.COMPLETED,
            count,
            count,
        )
