"""track(): iterating with progress, from start to whatever end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, Status
from otel_progress.testing import Recorder


async def numbers(count: int) -> AsyncIterator[int]:
    """Yield numbers, asynchronously."""
    for number in range(count):
        await asyncio.sleep(0)
        yield number


def ended(recorder: Recorder) -> list[LevelSnapshot]:
    """Return the operations that ended, the first one first."""
    return [one.root for one in reversed(recorder.runtime.get_history())]


def test_a_list_is_counted_to_its_length(recorder: Recorder) -> None:
    """An element is done when the loop asks for the next one; in the end all are."""
    tracked = progress.track(["a", "b", "c"], "letters", type="checksum", unit="letter", source="here")
    seen = [(element, tracked.level.snapshot().current) for element in tracked]
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    (last,) = ended(recorder)
    assert (last.info.type, last.info.name, last.info.unit, dict(last.metadata)) == (
        "checksum",
        "letters",
        "letter",
        {"source": "here"},
    )
    assert (last.status, last.current, last.total, last.ratio) == (Status.COMPLETED, 3, 3, 1.0)


@pytest.mark.parametrize(("given", "total"), [(None, None), (5, 5)])
def test_a_generator_has_the_total_it_is_given(
    lenient: Recorder, given: int | None, total: int | None
) -> None:
    """An iterable without a length has no total of its own."""
    tracked = progress.track(iter(range(5)), total=given)
    assert list(tracked) == [0, 1, 2, 3, 4]
    (last,) = ended(lenient)
    assert (last.current, last.total) == (5, total)


def test_nothing_to_do(recorder: Recorder) -> None:
    """An empty iterable is a level that completed."""
    assert list(progress.track([])) == []
    (last,) = ended(recorder)
    assert (last.status, last.current, last.total, last.ratio) == (Status.COMPLETED, 0, 0, 1.0)


def test_a_loop_is_below_the_current_level_but_not_current(recorder: Recorder) -> None:
    """What the loop's body begins is beside the loop's level, and nothing stays current after."""
    with progress.operation("o", id="o") as op:
        for number in progress.track(range(2), type="loop"):
            assert progress.current_level() is op
            with progress.level("step", number):
                pass
        for _ in op.track(range(1), type="own"):
            pass
    paths = [level.path for level in recorder.operation("o").levels]
    assert paths == ["loop:1", "step:0", "step:1", "own:1"]


@pytest.mark.parametrize("strict", [True, False])
def test_nested_loops_of_one_track(lenient: Recorder, strict: bool) -> None:
    """Each iteration of one track() is a level of its own, also while another one is under way."""
    lenient.runtime._recording.strict = strict
    tracked = progress.track([1, 2, 3])
    assert [(a, b) for a in tracked for b in tracked if b == a] == [(1, 1), (2, 2), (3, 3)]
    snapshots = ended(lenient)
    assert [(one.status, one.current) for one in snapshots] == [(Status.COMPLETED, 3)] * 4


def test_iterating_again(recorder: Recorder) -> None:
    """A list can be iterated again, with new progress."""
    tracked = progress.track([1, 2])
    assert list(tracked) == list(tracked) == [1, 2]
    assert [one.current for one in ended(recorder)] == [2, 2]


def test_a_handle_taken_before_the_loop(recorder: Recorder) -> None:
    """The handle one asks for before the loop is that of the loop."""
    tracked = progress.track([1, 2])
    tracked.level.update(message="about to begin")
    assert list(tracked) == [1, 2]
    (last,) = ended(recorder)
    assert (last.message, last.current) == ("about to begin", 2)


def test_breaking_out(recorder: Recorder) -> None:
    """Leaving the loop early cancels: what was handed out last is not done."""
    for number in progress.track(range(5)):
        if number == 2:
            break
    (last,) = ended(recorder)
    assert (last.status, last.current, last.message) == (Status.CANCELLED, 2, "stopped before the end")


def test_an_error_in_the_loops_body(recorder: Recorder) -> None:
    """An exception of the body goes on; the loop was not finished."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        for number in progress.track(range(5)):
            _ = 1 / number
    gc.collect()
    (last,) = ended(recorder)
    assert (last.status, last.current) == (Status.CANCELLED, 0)


def test_an_error_of_the_iterable(recorder: Recorder) -> None:
    """An exception of the iterable fails the loop; what came before it is done."""

    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(progress.track(broken()))
    (last,) = ended(recorder)
    assert (last.status, last.current, last.error and last.error.message) == (Status.FAILED, 2, "gone")


def test_what_cannot_be_iterated_leaves_nothing_behind(recorder: Recorder) -> None:
    """The TypeError of iter() arrives, and no level was begun."""
    with pytest.raises(TypeError, match="not iterable"):
        iter(progress.track(42))  # type: ignore[arg-type]
    assert recorder.runtime.get_active_operations() == []
    assert ended(recorder) == []


def test_a_loop_that_is_never_begun_is_closed(recorder: Recorder) -> None:
    """An iterator that is dropped before its first element leaves nothing running."""
    iterator = iter(progress.track([1]))
    del iterator
    gc.collect()
    assert recorder.runtime.get_active_operations() == []


def test_items_in_a_loop_are_not_counted_twice(recorder: Recorder) -> None:
    """In a loop item() says how the element went; the loop counts it."""
    tracked = progress.track(["a", "b", "c"], type="check")
    for name in tracked:
        tracked.level.item(name, outcome="failed" if name == "b" else "completed")
    (last,) = ended(recorder)
    assert (last.current, last.completed, last.failed) == (3, 2, 1)


def test_more_than_the_total_is_refused_when_strict(recorder: Recorder) -> None:
    """The element beyond the total raises, and none before it."""
    seen = []
    with pytest.raises(ValueError, match="at most the total 2"):  # noqa: PT012 - the block is what is tested
        for number in progress.track(iter(range(5)), total=2):
            seen.append(number)  # noqa: PERF402 - each one is looked at on its way
    assert seen == [0, 1, 2]
    assert ended(recorder)[0].status is Status.FAILED


def test_more_than_the_total_by_default(lenient: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """Without strict the loop goes on, the count stays at the total, and there is one warning."""
    assert list(progress.track(iter(range(5)), total=2)) == [0, 1, 2, 3, 4]
    (last,) = ended(lenient)
    assert (last.current, last.total, last.status) == (2, 2, Status.COMPLETED)
    assert [record.levelname for record in caplog.records if record.name == "otel_progress"] == ["WARNING"]


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "operation"])
def test_a_loop_whose_level_has_ended_goes_on(recorder: Recorder, end: str) -> None:
    """Ending the loop's level, or the operation, from inside is heard and disturbs neither loop nor break."""
    for stop in (False, True):
        op = progress.operation("o").start()
        tracked = op.track([1, 2])
        for number in tracked:
            if number == 1 and end == "operation":
                op.complete()
            elif number == 1:
                getattr(tracked.level, end)(*(["why"] if end == "fail" else []))
            if stop:
                break
        op.__exit__(None, None, None)
    assert recorder.runtime.get_active_operations() == []


@pytest.mark.usefixtures("recorder")
def test_length_and_truth_are_the_iterables() -> None:
    """A tracked list has the list's length; what has none can be looped over and is true, as it was before."""
    assert len(progress.track([1, 2])) == 2
    assert not progress.track([])
    assert progress.track(iter([]))
    with pytest.raises(TypeError):
        len(progress.track(iter([])))  # type: ignore[arg-type]


def test_an_async_iterable(recorder: Recorder) -> None:
    """Asynchronous iterables are counted the same way, several at once."""

    async def work() -> list[list[int]]:
        async def one(count: int) -> list[int]:
            return [number async for number in progress.track(numbers(count), total=count)]

        return await asyncio.gather(*(one(count) for count in range(4)))

    assert asyncio.run(work()) == [[0] * 0, [0], [0, 1], [0, 1, 2]]
    assert sorted(one.current for one in ended(recorder)) == [0, 1, 2, 3]


def test_leaving_an_async_loop(recorder: Recorder) -> None:
    """Breaking out, closing from another task, errors and cancellation end the level of an asynchronous loop."""

    async def work() -> None:
        iterator = aiter_of(progress.track(numbers(5), type="closed"))
        await iterator.__anext__()
        await iterator.__anext__()
        await asyncio.create_task(iterator.aclose())
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async for number in progress.track(numbers(5), type="raised"):
                _ = 1 / number
        with pytest.raises(OSError, match="gone"):
            async for _ in progress.track(failing(), type="failed"):
                pass
        task = asyncio.create_task(consume())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def failing() -> AsyncIterator[int]:
        yield 1
        raise OSError("gone")

    async def endless() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    async def consume() -> None:
        async for _ in progress.track(endless(), type="cancelled"):
            pass

    asyncio.run(work())
    found = {one.info.type: (one.status, one.current) for one in ended(recorder)}
    assert found == {
        "closed": (Status.CANCELLED, 1),
        "raised": (Status.CANCELLED, 0),
        "failed": (Status.FAILED, 1),
        "cancelled": (Status.CANCELLED, 0),
    }


def aiter_of(tracked: Any) -> Any:
    """Return the asynchronous iterator of a track (``aiter`` is mypy-typed without ``aclose``)."""
    return tracked.__aiter__()


def test_async_without_configure() -> None:
    """Without a configuration an asynchronous loop runs unchanged."""

    async def work() -> list[int]:
        return [number async for number in progress.track(numbers(3))]

    assert asyncio.run(work()) == [0, 1, 2]


class Untold:
    """An iterable whose length is a lie that raises."""

    def __len__(self) -> int:
        raise RuntimeError("not today")

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


def test_a_length_that_raises_is_unknown(recorder: Recorder) -> None:
    """A foreign __len__ may do anything; the loop runs."""
    tracked = progress.track(Untold())
    assert [number for number in tracked] == [1, 2]  # noqa: C416 - list() would ask for the length itself
    assert ended(recorder)[0].total is None
