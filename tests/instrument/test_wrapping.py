"""Wrapped functions and executors in threads, tasks and pickles."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as context_api

import otel_progress as progress
from otel_progress.model import Status
from otel_progress.testing import Recorder


def double(number: int) -> int:
    """Count one unit on the current level."""
    progress.current_level().increment()
    return 2 * number


async def double_later(number: int) -> int:
    """Count one unit on the current level in a task."""
    await asyncio.sleep(0)
    return double(number)


def test_wrapped_call_in_a_thread_has_the_level_of_the_caller(recorder: Recorder) -> None:
    """The control without ``wrap`` counts nothing."""
    with ThreadPoolExecutor(2) as executor, progress.operation("job", id="j", total=3) as op:
        assert list(executor.map(double, range(2))) == [0, 2]
        assert op.snapshot().current == 0
        assert list(executor.map(progress.wrap(double), range(3))) == [0, 2, 4]
        assert progress.current_level() is op
    assert recorder.operation("j").root.current == 3


def test_wrapped_call_restores_the_context_of_its_thread(recorder: Recorder) -> None:
    with progress.operation("job", id="j") as op:
        wrapped = progress.wrap(lambda: progress.current_level())
        with op.level("file", 1) as file:
            assert wrapped() is op
            assert progress.current_level() is file
    assert not progress.current_level().recording
    assert wrapped() is not op
    assert recorder.operation("j").status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_wrapped_call_has_the_span_and_the_baggage() -> None:
    """A new thread has an empty context."""
    seen: list[object] = []

    def read() -> None:
        seen.extend((trace.get_current_span(), baggage.get_baggage("tenant")))

    token = context_api.attach(baggage.set_baggage("tenant", "blue"))
    try:
        with progress.operation("job", id="j") as op:
            thread = threading.Thread(target=progress.wrap(read))
            thread.start()
            thread.join()
            assert seen == [op.span, "blue"]
    finally:
        context_api.detach(token)


@pytest.mark.usefixtures("recorder")
def test_exception_of_a_wrapped_call_is_passed_through() -> None:
    def fail() -> None:
        raise ValueError("three")

    with progress.operation("job", id="j") as op:
        with pytest.raises(ValueError, match="three"):
            progress.wrap(fail)()
        assert op.recording
        assert progress.current_level() is op


@pytest.mark.parametrize("kind", ["to_thread", "run_in_executor", "task"])
def test_wrapped_call_of_asyncio_has_the_level(recorder: Recorder, kind: str) -> None:
    async def run_all() -> list[int]:
        with progress.operation("job", id="j", total=3):
            loop = asyncio.get_running_loop()
            wrapped = progress.wrap(double)
            if kind == "to_thread":
                calls = [asyncio.to_thread(wrapped, number) for number in range(3)]
            elif kind == "run_in_executor":
                calls = [loop.run_in_executor(None, wrapped, number) for number in range(3)]  # type: ignore[misc]
            else:
                later = progress.wrap(double_later)
                assert asyncio.iscoroutinefunction(later)
                assert inspect.iscoroutinefunction(later) or not hasattr(inspect, "markcoroutinefunction")
                calls = [asyncio.ensure_future(later(number)) for number in range(3)]  # type: ignore[misc]
            return list(await asyncio.gather(*calls))

    assert asyncio.run(run_all()) == [0, 2, 4]
    assert recorder.operation("j").root.current == 3


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has no TaskGroup before Python 3.11")
def test_tasks_of_a_group_have_the_level_of_their_function(recorder: Recorder) -> None:
    """A task that was created elsewhere has it, too. Levels of tasks do not mix."""
    seen: list[str] = []

    async def work(number: int) -> None:
        with progress.current_level().level("part", number) as part:
            await asyncio.sleep(0)
            assert progress.current_level() is part
            seen.append(part.snapshot().path)

    async def run_all() -> None:
        with progress.operation("job", id="j") as op:
            wrapped = progress.wrap(work)
            with op.level("file", "a"):
                async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
                    for number in range(3):
                        group.create_task(wrapped(number))
                assert progress.current_level() is not op

    asyncio.run(run_all())
    assert sorted(seen) == ["part:0", "part:1", "part:2"]
    assert {level.status for level in recorder.operation("j").levels} == {Status.COMPLETED}


def test_wrapped_function_can_be_pickled(recorder: Recorder) -> None:
    """It has the name of the function. A pickle of a lambda fails as without ``wrap``."""
    with progress.operation("job", id="j", total=2) as op:
        wrapped = progress.wrap(double)
        loaded = pickle.loads(pickle.dumps(wrapped))
        assert (loaded(2), wrapped(1)) == (4, 2)
        assert (wrapped.__name__, wrapped.__doc__) == ("double", double.__doc__)
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(progress.wrap(lambda: None))
        assert op.recording
    assert recorder.operation("j").root.current == 2


def test_function_wrapped_without_a_level_is_called_unchanged() -> None:
    """Nothing is configured, too."""
    assert progress.wrap(double)(3) == 6
    assert pickle.loads(pickle.dumps(progress.wrap(double)))(3) == 6


def test_level_can_be_given(recorder: Recorder) -> None:
    with progress.operation("job", id="j") as op, op.level("file", 1, total=1):
        progress.wrap(double, op)(1)
    assert recorder.operation("j").root.current == 1


def test_executor_runs_calls_with_the_level_at_their_submission(recorder: Recorder) -> None:
    """Each operation counts its own calls."""
    with progress.ProgressExecutor(ThreadPoolExecutor(2)) as executor:
        for name in ("one", "two"):
            with progress.operation("job", id=name, total=2):
                assert executor.submit(double, 1).result() == 2
                assert list(executor.map(double, [5])) == [10]
    assert [recorder.operation(name).root.current for name in ("one", "two")] == [2, 2]
    with pytest.raises(RuntimeError):
        executor.submit(double, 1)


def test_executor_cancels_futures_at_the_shutdown(recorder: Recorder) -> None:
    started, leave = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        leave.wait(60.0)

    executor = progress.ProgressExecutor(ThreadPoolExecutor(1))
    with progress.operation("job", id="j"):
        running, waiting = executor.submit(wait), executor.submit(wait)
        assert started.wait(60.0)
        executor.shutdown(wait=False, cancel_futures=True)
        leave.set()
        running.result(60.0)
    assert waiting.cancelled()
    assert recorder.operation("j").status is Status.COMPLETED


def count_up(end: int) -> Generator[int, int | None, str]:
    """Count one unit on the current level in each step, and at the end."""
    try:
        for number in range(end):
            progress.current_level().increment((yield number) or 1)
    finally:
        progress.current_level().item("last")
    return "done"


async def count_up_later(end: int) -> AsyncGenerator[int, None]:
    """Count one unit on the current level in each step."""
    for number in range(end):
        await asyncio.sleep(0)
        progress.current_level().increment()
        yield number


class AsyncCallable:
    """Object whose call is a coroutine function."""

    async def __call__(self, number: int) -> int:
        """Count one unit on the current level."""
        return await double_later(number)


def test_steps_of_a_wrapped_generator_have_the_level(recorder: Recorder) -> None:
    """Between the steps the level of the thread is current. Values are passed."""
    with ThreadPoolExecutor(1) as executor, progress.operation("job", id="j", total=20) as op:
        wrapped = progress.wrap(progress.wrap(count_up))
        assert executor.submit(lambda: list(wrapped(2))).result() == [0, 1]
        with op.level("other") as other:
            steps = wrapped(3)
            assert next(steps) == 0
            assert progress.current_level() is other
            assert steps.send(5) == 1
            assert next(steps) == 2
            with pytest.raises(StopIteration) as stop:
                next(steps)
            assert stop.value.value == "done"
        early = wrapped(9)
        next(early)
        early.close()
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            wrapped()  # type: ignore[call-arg]
        # 2 and the end, 5 + 1 + 1 and the end, the end that close() causes
        assert op.snapshot().current == 3 + 8 + 1
    assert [level.current for level in recorder.operation("j").levels] == [0]


def test_wrapped_asynchronous_generator_and_callable_have_the_level(recorder: Recorder) -> None:
    async def read(wrapped: Callable[[int], AsyncGenerator[int, None]]) -> list[int]:
        return [number async for number in wrapped(3)]

    with ThreadPoolExecutor(1) as executor, progress.operation("job", id="j", total=4):
        wrapped = progress.wrap(count_up_later)
        call = progress.wrap(AsyncCallable())
        assert executor.submit(lambda: asyncio.run(read(wrapped))).result() == [0, 1, 2]
        assert executor.submit(lambda: asyncio.run(call(4))).result() == 8
    assert recorder.operation("j").root.current == 4


def test_wrapped_generator_function_can_be_pickled(recorder: Recorder) -> None:
    with progress.operation("job", id="j", total=3):
        wrapped = pickle.loads(pickle.dumps(progress.wrap(count_up)))
        assert list(wrapped(2)) == [0, 1]
    assert recorder.operation("j").root.current == 3
