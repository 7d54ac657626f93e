"""Tests of decorated functions: each call is a level, for all kinds of functions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Generator

import pytest

import otel_progress as progress
from otel_progress.testing import Recorder


@progress.operation("job", total=1)
def job(a: int, *, b: int = 2) -> int:
    """Return the sum. The decorator runs before ``configure()``, as in any module."""
    progress.current_level().increment()
    return a + b


@progress.level("fibonacci")
def fibonacci(n: int) -> int:
    """Recurse with one level per call."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@progress.level("stream")
def stream(*values: int) -> Generator[int, str, str]:
    """Yield values, and return the sent values."""
    sent = []
    for value in values:
        sent.append((yield value))
        progress.current_level().increment()
    return ",".join(map(str, sent))


@progress.level("astream")
async def astream(*values: int) -> AsyncIterator[int]:
    """Yield values asynchronously."""
    for value in values:
        await asyncio.sleep(0)
        yield value
        progress.current_level().increment()


@progress.operation("coroutine")
async def coroutine(value: int) -> int:
    """Return the value after a switch of tasks."""
    await asyncio.sleep(0)
    if value < 0:
        raise ValueError(value)
    return value


def get_statuses(recorder: Recorder) -> list[tuple[str, str]]:
    """Return type and status of all ended operations, oldest first."""
    history = reversed(recorder.runtime.get_history())
    return [(operation.operation_type, operation.status.value) for operation in history]


def test_function_decorated_before_configure_is_recorded(recorder: Recorder) -> None:
    """Arguments and results stay unchanged, and each call is an operation."""
    assert job(1) == 3
    assert job(1, b=5) == 6
    assert get_statuses(recorder) == [("job", "completed")] * 2
    assert [operation.root.current for operation in recorder.runtime.get_history()] == [1, 1]


def test_decorated_function_keeps_name_and_signature() -> None:
    """Name, signature, documentation and kind of function stay unchanged."""
    assert job.__name__ == "job"
    assert job.__doc__
    assert list(inspect.signature(job).parameters) == ["a", "b"]
    assert inspect.isgeneratorfunction(stream)
    assert inspect.isasyncgenfunction(astream)
    assert inspect.iscoroutinefunction(coroutine)
    assert job(1) == 3
    assert list(stream(1, 2)) == [1, 2]


def test_decorated_function_that_raises_fails(recorder: Recorder) -> None:
    """The exception is raised unchanged."""
    with pytest.raises(TypeError):
        job("one")
    assert get_statuses(recorder) == [("job", "failed")]


def test_recursive_function_has_nested_levels(recorder: Recorder) -> None:
    """Each call is a child of the calling level."""
    with progress.operation("maths", id="m"):
        assert fibonacci(4) == 3
    tree = recorder.operation("m")
    assert tree.get_level("fibonacci:1/fibonacci:1/fibonacci:1/fibonacci:1") is not None
    assert len(recorder.spans()) == 9 + 1


def test_decorated_methods_receive_their_instance(recorder: Recorder) -> None:
    """Methods and static methods can be decorated."""

    class Worker:
        factor = 3

        @progress.level("method")
        def times(self, n: int) -> int:
            return n * self.factor

        @staticmethod
        @progress.level("static")
        def plus(n: int) -> int:
            return n + 1

    with progress.operation("o", id="o"):
        assert (Worker().times(2), Worker.plus(1)) == (6, 2)
    assert [level.info.type for level in recorder.operation("o").levels] == ["method", "static"]


@pytest.mark.usefixtures("recorder")
def test_decorator_of_handle_has_that_parent() -> None:
    """Each call is a child of the handle."""
    with progress.operation("o", id="o") as op:

        @op.level("part")
        def part() -> str:
            return progress.current_level().path

        paths = [part(), part()]
    assert paths == ["part:1", "part:2"]


def test_decorated_coroutines_run_concurrently(recorder: Recorder) -> None:
    """Each coroutine is awaited in its own level."""

    async def run_all() -> list[int]:
        return await asyncio.gather(*(coroutine(n) for n in range(5)))

    assert asyncio.run(run_all()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="-1"):
        asyncio.run(coroutine(-1))
    assert sorted(get_statuses(recorder)) == [("coroutine", "completed")] * 5 + [("coroutine", "failed")]


def test_cancelled_task_ends_its_level_as_cancelled(recorder: Recorder) -> None:
    """CancelledError is not a failure."""

    async def cancel() -> None:
        waiting = asyncio.Event()

        @progress.operation("forever")
        async def forever() -> None:
            waiting.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(forever())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert get_statuses(recorder) == [("forever", "cancelled")]
