"""Decorated functions: each call is a level of its own, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Generator

import pytest

import otel_progress as progress
from otel_progress.testing import Recorder


@progress.operation("job", total=1)
def job(a: int, *, b: int = 2) -> int:
    """Decorated while nothing is configured, as module-level code is."""
    progress.current_level().increment()
    return a + b


@progress.level("fibonacci")
def fibonacci(n: int) -> int:
    """Recurse, a level a call."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@progress.level("stream")
def stream(*values: int) -> Generator[int, str, str]:
    """Yield values, and return what was sent."""
    sent = []
    for value in values:
        sent.append((yield value))
        progress.current_level().increment()
    return ",".join(map(str, sent))


@progress.level("astream")
async def astream(*values: int) -> AsyncIterator[int]:
    """Yield values from a task."""
    for value in values:
        await asyncio.sleep(0)
        yield value
        progress.current_level().increment()


@progress.operation("coroutine")
async def coroutine(value: int) -> int:
    """Return the value, later."""
    await asyncio.sleep(0)
    if value < 0:
        raise ValueError(value)
    return value


def statuses(recorder: Recorder) -> list[tuple[str, str]]:
    """Return type and status of every operation that ended, the first one first."""
    return [(one.operation_type, one.status.value) for one in reversed(recorder.runtime.get_history())]


def test_a_function_decorated_before_configure(recorder: Recorder) -> None:
    """Arguments and the result pass through, and each call is recorded anew."""
    assert job(1) == 3
    assert job(1, b=5) == 6
    assert statuses(recorder) == [("job", "completed")] * 2
    assert [one.root.current for one in recorder.runtime.get_history()] == [1, 1]


def test_what_a_decorated_function_looks_like() -> None:
    """Name, signature, documentation and kind stay those of the function."""
    assert job.__name__ == "job"
    assert job.__doc__
    assert list(inspect.signature(job).parameters) == ["a", "b"]
    assert inspect.isgeneratorfunction(stream)
    assert inspect.isasyncgenfunction(astream)
    assert inspect.iscoroutinefunction(coroutine)
    assert job(1) == 3
    assert list(stream(1, 2)) == [1, 2]


def test_an_error_of_a_function(recorder: Recorder) -> None:
    """The exception goes on and its call failed."""
    with pytest.raises(TypeError):
        job("one")
    assert statuses(recorder) == [("job", "failed")]


def test_recursion_nests(recorder: Recorder) -> None:
    """Each call of a recursive function is a level below the one that called it."""
    with progress.operation("maths", id="m"):
        assert fibonacci(4) == 3
    tree = recorder.operation("m")
    assert tree.get_level("fibonacci:1/fibonacci:1/fibonacci:1/fibonacci:1") is not None
    assert len(recorder.spans()) == 9 + 1


def test_a_method_and_a_static_method(recorder: Recorder) -> None:
    """Decorated methods get their instance."""

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
def test_a_handles_own_level_as_decorator() -> None:
    """A decorator made from a handle has that handle above it."""
    with progress.operation("o", id="o") as op:

        @op.level("part")
        def part() -> str:
            return progress.current_level().path

        op_path = [part(), part()]
    assert op_path == ["part:1", "part:2"]


def test_coroutines(recorder: Recorder) -> None:
    """A coroutine function is awaited within its level, several at once without mixing."""

    async def several() -> list[int]:
        return await asyncio.gather(*(coroutine(n) for n in range(5)))

    assert asyncio.run(several()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="-1"):
        asyncio.run(coroutine(-1))
    assert sorted(statuses(recorder)) == [("coroutine", "completed")] * 5 + [("coroutine", "failed")]


def test_a_cancelled_task(recorder: Recorder) -> None:
    """A task that is cancelled ends its level as cancelled."""

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
    assert statuses(recorder) == [("forever", "cancelled")]
