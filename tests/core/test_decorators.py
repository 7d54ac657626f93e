"""Decorated functions: each call is a level of its own, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Generator, Iterator

import pytest

import otel_progress as progress
from otel_progress import Status
from otel_progress.testing import Recorder, wait_until


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


def test_a_handles_own_level_as_decorator(recorder: Recorder) -> None:
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


def test_a_generator_sends_throws_and_returns(recorder: Recorder) -> None:
    """A decorated generator is one for its caller in every respect."""
    generator = stream(1, 2)
    assert next(generator) == 1
    assert generator.send("a") == 2
    with pytest.raises(StopIteration) as stop:
        generator.send("b")
    assert stop.value.value == "a,b"
    thrown = stream(1, 2)
    next(thrown)
    with pytest.raises(KeyError, match="lost"):
        thrown.throw(KeyError("lost"))
    assert statuses(recorder) == [("stream", "completed"), ("stream", "failed")]
    assert recorder.runtime.get_history()[1].root.current == 2


def test_a_generator_that_answers_a_throw(recorder: Recorder) -> None:
    """What is thrown into a generator arrives at its yield, and what it yields then comes back."""

    @progress.level("stubborn")
    def stubborn() -> Iterator[str]:
        try:
            yield "first"
        except KeyError:
            yield "caught"

    generator = stubborn()
    assert next(generator) == "first"
    assert generator.throw(KeyError()) == "caught"
    assert list(generator) == []
    assert statuses(recorder) == [("stubborn", "completed")]


def test_a_generator_that_is_closed_or_dropped(recorder: Recorder) -> None:
    """Closing, breaking out of, and forgetting a generator run its clean-up and cancel its level."""
    cleaned = []

    @progress.level("opened")
    def opened() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            cleaned.append(progress.current_level().path)

    closed = opened()
    next(closed)
    closed.close()
    for _ in opened():
        break
    forgotten = opened()
    next(forgotten)
    loop = [forgotten]
    loop.append(loop)  # only the cyclic collector finds it
    del forgotten, loop
    gc.collect()
    never = opened()
    never.close()
    assert statuses(recorder) == [("opened", "cancelled")] * 3
    assert cleaned == ["", "", ""]


def test_a_generator_that_refuses_to_close(recorder: Recorder) -> None:
    """A generator that yields when it is closed gets Python's own complaint, and failed."""

    @progress.level("deaf")
    def deaf() -> Iterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2

    generator = deaf()
    next(generator)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()
    assert statuses(recorder) == [("deaf", "failed")]


def test_wrong_arguments_leave_no_level_behind(recorder: Recorder) -> None:
    """A generator function called wrongly raises its TypeError, and nothing runs on."""

    @progress.operation("one")
    def one(value: int) -> Iterator[int]:
        yield value

    @progress.operation("aone")
    async def aone(value: int) -> AsyncIterator[int]:
        yield value

    async def step() -> None:
        await aone(1, 2).__anext__()

    with pytest.raises(TypeError, match="positional"):
        next(one(1, 2))
    with pytest.raises(TypeError, match="positional"):
        asyncio.run(step())
    assert recorder.runtime.get_active_operations() == []


def test_generators_leak_no_context(recorder: Recorder) -> None:
    """Between its steps a generator's level is current for nobody, however generators are interleaved."""
    with progress.operation("o") as op:
        first, second = stream(1, 2, 3), stream(4, 5, 6)
        seen = []
        for pair in zip(first, second, strict=True):
            seen.append(pair)
            assert progress.current_level() is op
        assert seen == [(1, 4), (2, 5), (3, 6)]
    assert not progress.current_level().recording


def test_a_level_opened_in_a_generator_stays_current_in_it(recorder: Recorder) -> None:
    """A block inside of a generator is still around its body after a yield."""

    @progress.level("outer")
    def outer() -> Iterator[str]:
        with progress.level("inner"):
            yield progress.current_level().path
            yield progress.current_level().path
        yield progress.current_level().path

    with progress.operation("o") as op:
        paths = []
        for path in outer():
            paths.append(path)
            assert progress.current_level() is op
    assert paths == ["outer:1/inner:1", "outer:1/inner:1", "outer:1"]


def test_an_async_generator_keeps_its_own_context(recorder: Recorder) -> None:
    """The same holds for asynchronous generators."""

    @progress.level("outer")
    async def outer() -> AsyncIterator[str]:
        async with progress.level("inner"):
            yield progress.current_level().path
            await asyncio.sleep(0)
            yield progress.current_level().path
        yield progress.current_level().path

    async def walk() -> list[str]:
        async with progress.operation("o") as op:
            paths = []
            async for path in outer():
                assert progress.current_level() is op
                paths.append(path)
            return paths

    assert asyncio.run(walk()) == ["outer:1/inner:1", "outer:1/inner:1", "outer:1"]


def test_async_generators_end_in_every_way(recorder: Recorder) -> None:
    """An asynchronous generator that ends, raises, or is closed (also by another task) ends its level so."""

    @progress.level("raising")
    async def raising() -> AsyncIterator[int]:
        yield 1
        raise KeyError("lost")

    async def work() -> None:
        assert [value async for value in astream(1, 2)] == [1, 2]
        with pytest.raises(KeyError):
            [value async for value in raising()]
        closed = astream(1, 2)
        await closed.__anext__()
        await asyncio.create_task(closed.aclose())
        thrown = astream(1, 2)
        await thrown.__anext__()
        with pytest.raises(ZeroDivisionError):
            await thrown.athrow(ZeroDivisionError())

    asyncio.run(work())
    assert statuses(recorder) == [
        ("astream", "completed"),
        ("raising", "failed"),
        ("astream", "cancelled"),
        ("astream", "failed"),
    ]


def test_an_async_generator_that_is_forgotten(recorder: Recorder) -> None:
    """The event loop closes a forgotten asynchronous generator, and its level ends."""

    async def work() -> None:
        async for _ in astream(1, 2):
            break
        gc.collect()

    asyncio.run(work())
    wait_until(lambda: recorder.runtime.get_active_operations() == [])
    assert statuses(recorder) == [("astream", Status.CANCELLED.value)]
