"""Tests of decorated generators: each run is a level, current only inside it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Generator, Iterator

import pytest

import otel_progress as progress
from otel_progress import Status
from otel_progress.testing import Recorder, wait_until


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


def get_statuses(recorder: Recorder) -> list[tuple[str, str]]:
    """Return type and status of all ended operations, oldest first."""
    history = reversed(recorder.runtime.get_history())
    return [(operation.operation_type, operation.status.value) for operation in history]


def test_decorated_generator_sends_throws_and_returns(recorder: Recorder) -> None:
    """A decorated generator behaves like any generator."""
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
    assert get_statuses(recorder) == [("stream", "completed"), ("stream", "failed")]
    assert recorder.runtime.get_history()[1].root.current == 2


def test_generator_that_handles_a_throw_continues(recorder: Recorder) -> None:
    """The exception is raised at its yield, and the next value is returned."""

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
    assert get_statuses(recorder) == [("stubborn", "completed")]


def test_generator_that_is_closed_or_collected_is_cancelled(recorder: Recorder) -> None:
    """Closing, breaking and garbage collection run its clean-up and cancel its level."""
    paths = []

    @progress.level("opened")
    def opened() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            paths.append(progress.current_level().path)

    closed = opened()
    next(closed)
    closed.close()
    for _ in opened():
        break
    collected = opened()
    next(collected)
    cycle = [collected]
    cycle.append(cycle)  # only the cyclic collector can free it
    del collected, cycle
    gc.collect()
    unstarted = opened()
    unstarted.close()
    assert get_statuses(recorder) == [("opened", "cancelled")] * 3
    assert paths == ["", "", ""]


def test_generator_that_ignores_close_fails(recorder: Recorder) -> None:
    """A generator that yields when it is closed raises Python's RuntimeError."""

    @progress.level("stubborn")
    def stubborn() -> Iterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2

    generator = stubborn()
    next(generator)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()
    assert get_statuses(recorder) == [("stubborn", "failed")]


def test_generator_with_wrong_arguments_starts_no_level(recorder: Recorder) -> None:
    """The TypeError is raised, and no level is running."""

    @progress.operation("sync")
    def generate(value: int) -> Iterator[int]:
        yield value

    @progress.operation("async")
    async def generate_async(value: int) -> AsyncIterator[int]:
        yield value

    async def step() -> None:
        await generate_async(1, 2).__anext__()

    with pytest.raises(TypeError, match="positional"):
        next(generate(1, 2))
    with pytest.raises(TypeError, match="positional"):
        asyncio.run(step())
    assert recorder.runtime.get_active_operations() == []


@pytest.mark.usefixtures("recorder")
def test_interleaved_generators_keep_the_callers_context() -> None:
    """Between its steps the level of a generator is not current."""
    with progress.operation("o") as op:
        first, second = stream(1, 2, 3), stream(4, 5, 6)
        pairs = []
        for pair in zip(first, second, strict=True):
            pairs.append(pair)
            assert progress.current_level() is op
        assert pairs == [(1, 4), (2, 5), (3, 6)]
    assert not progress.current_level().recording


@pytest.mark.usefixtures("recorder")
def test_level_started_in_generator_stays_current_in_it() -> None:
    """After a yield the block inside a generator is still active."""

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


@pytest.mark.usefixtures("recorder")
def test_level_started_in_async_generator_stays_current_in_it() -> None:
    """After a yield the block inside an async generator is still active."""

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


def test_async_generators_end_with_correct_status(recorder: Recorder) -> None:
    """Async generators end, raise, or are closed, also by another task."""

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
    assert get_statuses(recorder) == [
        ("astream", "completed"),
        ("raising", "failed"),
        ("astream", "cancelled"),
        ("astream", "failed"),
    ]


def test_collected_async_generator_is_cancelled(recorder: Recorder) -> None:
    """The event loop closes the generator, and its level ends."""

    async def work() -> None:
        async for _ in astream(1, 2):
            break
        gc.collect()

    asyncio.run(work())
    wait_until(lambda: recorder.runtime.get_active_operations() == [], 60.0)
    assert get_statuses(recorder) == [("astream", Status.CANCELLED.value)]
