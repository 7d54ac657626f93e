"""Decorated generators: each iteration is a level, current inside of it and nowhere else."""

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


def statuses(recorder: Recorder) -> list[tuple[str, str]]:
    """Return type and status of every operation that ended, the first one first."""
    return [(one.operation_type, one.status.value) for one in reversed(recorder.runtime.get_history())]


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


@pytest.mark.usefixtures("recorder")
def test_generators_leak_no_context() -> None:
    """Between its steps a generator's level is current for nobody, however generators are interleaved."""
    with progress.operation("o") as op:
        first, second = stream(1, 2, 3), stream(4, 5, 6)
        seen = []
        for pair in zip(first, second, strict=True):
            seen.append(pair)
            assert progress.current_level() is op
        assert seen == [(1, 4), (2, 5), (3, 6)]
    assert not progress.current_level().recording


@pytest.mark.usefixtures("recorder")
def test_a_level_opened_in_a_generator_stays_current_in_it() -> None:
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


@pytest.mark.usefixtures("recorder")
def test_an_async_generator_keeps_its_own_context() -> None:
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
    wait_until(lambda: recorder.runtime.get_active_operations() == [], 60.0)
    assert statuses(recorder) == [("astream", Status.CANCELLED.value)]
