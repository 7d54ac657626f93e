"""Tests of ``track()``: counting, ends, cancellation and async iteration."""

from __future__ import annotations

import asyncio
import gc
import queue
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, Status
from otel_progress.errors import RejectedValueError
from otel_progress.testing import Recorder, recording

WAIT_S = 60.0


async def numbers(count: int) -> AsyncIterator[int]:
    """Yield numbers asynchronously."""
    for number in range(count):
        await asyncio.sleep(0)
        yield number


def get_ended(recorder: Recorder) -> list[LevelSnapshot]:
    """Return snapshots of the ended operations, oldest first."""
    return [operation.root for operation in reversed(recorder.runtime.get_history())]


def test_track_of_list_counts_to_its_length(recorder: Recorder) -> None:
    """An element is done when the loop requests the next one."""
    tracked = progress.track(["a", "b", "c"], "letters", type="checksum", unit="letter", source="here")
    counts = [(element, tracked.level.snapshot().current) for element in tracked]
    assert counts == [("a", 0), ("b", 1), ("c", 2)]
    (last,) = get_ended(recorder)
    assert (last.info.type, last.info.name, last.info.unit, dict(last.metadata)) == (
        "checksum",
        "letters",
        "letter",
        {"source": "here"},
    )
    assert (last.status, last.current, last.total, last.ratio) == (Status.COMPLETED, 3, 3, 1.0)


@pytest.mark.parametrize(("given", "total"), [(None, None), (5, 5)])
def test_track_of_generator_has_the_given_total(
    lenient: Recorder, given: int | None, total: int | None
) -> None:
    """An iterable without a length has no total by default."""
    tracked = progress.track(iter(range(5)), total=given)
    assert list(tracked) == [0, 1, 2, 3, 4]
    (last,) = get_ended(lenient)
    assert (last.current, last.total) == (5, total)


def test_track_of_empty_iterable_completes(recorder: Recorder) -> None:
    """The total of an empty iterable is 0, and its ratio 1."""
    assert list(progress.track([])) == []
    (last,) = get_ended(recorder)
    assert (last.status, last.current, last.total, last.ratio) == (Status.COMPLETED, 0, 0, 1.0)


def test_track_is_a_child_but_never_the_current_level(recorder: Recorder) -> None:
    """Levels of the loop's body are siblings of the loop's level."""
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
def test_nested_loops_of_one_track_are_separate(lenient: Recorder, strict: bool) -> None:
    """Each iteration is a level of its own, also while another one is running."""
    lenient.runtime._recording.strict = strict
    tracked = progress.track([1, 2, 3])
    assert [(a, b) for a in tracked for b in tracked if b == a] == [(1, 1), (2, 2), (3, 3)]
    snapshots = get_ended(lenient)
    assert [(snapshot.status, snapshot.current) for snapshot in snapshots] == [(Status.COMPLETED, 3)] * 4


def test_track_iterated_again_starts_a_new_level(recorder: Recorder) -> None:
    """A list can be iterated twice."""
    tracked = progress.track([1, 2])
    assert list(tracked) == list(tracked) == [1, 2]
    assert [snapshot.current for snapshot in get_ended(recorder)] == [2, 2]


def test_handle_before_the_loop_is_that_of_the_loop(recorder: Recorder) -> None:
    """A message set before the loop is kept."""
    tracked = progress.track([1, 2])
    tracked.level.update(message="starting")
    assert list(tracked) == [1, 2]
    (last,) = get_ended(recorder)
    assert (last.message, last.current) == ("starting", 2)


def test_break_cancels_the_level(recorder: Recorder) -> None:
    """The element of the break does not count as done."""
    for number in progress.track(range(5)):
        if number == 2:
            break
    (last,) = get_ended(recorder)
    assert (last.status, last.current, last.message) == (Status.CANCELLED, 2, "stopped before the end")


def test_error_in_the_body_cancels_the_level(recorder: Recorder) -> None:
    """The exception is raised unchanged, and the loop is not finished."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        for number in progress.track(range(5)):
            _ = 1 / number
    gc.collect()
    (last,) = get_ended(recorder)
    assert (last.status, last.current) == (Status.CANCELLED, 0)


def test_error_of_the_iterable_fails_the_level(recorder: Recorder) -> None:
    """The elements before the exception are done."""

    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(progress.track(broken()))
    (last,) = get_ended(recorder)
    assert (last.status, last.current, last.error and last.error.message) == (Status.FAILED, 2, "gone")


def test_track_of_non_iterable_starts_no_level(recorder: Recorder) -> None:
    """The TypeError of ``iter()`` is raised."""
    with pytest.raises(TypeError, match="not iterable"):
        iter(progress.track(42))  # type: ignore[arg-type]
    assert recorder.runtime.get_active_operations() == []
    assert get_ended(recorder) == []


def test_collected_iterator_without_elements_ends_its_level(recorder: Recorder) -> None:
    """An iterator that is collected before its first element leaves no running level."""
    iterator = iter(progress.track([1]))
    del iterator
    gc.collect()
    assert recorder.runtime.get_active_operations() == []


def test_items_in_a_loop_count_once(recorder: Recorder) -> None:
    """In a loop ``item()`` sets the outcome of the element that the loop counts."""
    tracked = progress.track(["a", "b", "c"], type="check")
    for name in tracked:
        tracked.level.item(name, outcome="failed" if name == "b" else "completed")
    (last,) = get_ended(recorder)
    assert (last.current, last.completed, last.failed) == (3, 2, 1)


def test_strict_track_beyond_its_total_raises(recorder: Recorder) -> None:
    """The first element above the total raises."""
    elements = []
    with pytest.raises(ValueError, match="at most the total 2"):  # noqa: PT012 - the block is what is tested
        for number in progress.track(iter(range(5)), total=2):
            elements.append(number)  # noqa: PERF402 - the loop is what is tested
    assert elements == [0, 1, 2]
    assert get_ended(recorder)[0].status is Status.FAILED


def test_track_beyond_its_total_clamps_the_count(lenient: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """The loop continues, the count stays at the total, and there is one warning."""
    assert list(progress.track(iter(range(5)), total=2)) == [0, 1, 2, 3, 4]
    (last,) = get_ended(lenient)
    assert (last.current, last.total, last.status) == (2, 2, Status.COMPLETED)
    assert [record.levelname for record in caplog.records if record.name == "otel_progress"] == ["WARNING"]


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "operation"])
def test_loop_continues_after_end_of_its_level(recorder: Recorder, end: str) -> None:
    """Ending the level or operation in the body affects neither loop nor break."""
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
def test_track_has_length_and_truth_of_the_iterable() -> None:
    """An iterable without a length is true."""
    assert len(progress.track([1, 2])) == 2
    assert not progress.track([])
    assert progress.track(iter([]))
    with pytest.raises(TypeError):
        len(progress.track(iter([])))  # type: ignore[arg-type]


def test_async_track_counts_like_track(recorder: Recorder) -> None:
    """Several async loops run concurrently."""

    async def work() -> list[list[int]]:
        async def consume(count: int) -> list[int]:
            return [number async for number in progress.track(numbers(count), total=count)]

        return await asyncio.gather(*(consume(count) for count in range(4)))

    assert asyncio.run(work()) == [[0] * 0, [0], [0, 1], [0, 1, 2]]
    assert sorted(snapshot.current for snapshot in get_ended(recorder)) == [0, 1, 2, 3]


def test_async_loops_end_with_correct_status(recorder: Recorder) -> None:
    """Closing in another task, errors and cancellation end the level."""

    async def work() -> None:
        iterator = get_async_iterator(progress.track(numbers(5), type="closed"))
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
    ends = {level.info.type: (level.status, level.current) for level in get_ended(recorder)}
    assert ends == {
        "closed": (Status.CANCELLED, 1),
        "raised": (Status.CANCELLED, 0),
        "failed": (Status.FAILED, 1),
        "cancelled": (Status.CANCELLED, 0),
    }


def get_async_iterator(tracked: Any) -> Any:
    """Return the async iterator of a track. The type of ``aiter`` has no ``aclose``."""
    return tracked.__aiter__()


def test_async_track_without_configure_only_iterates() -> None:
    """The loop runs unchanged, and nothing is recorded."""

    async def work() -> list[int]:
        return [number async for number in progress.track(numbers(3))]

    assert asyncio.run(work()) == [0, 1, 2]


class UnknownLength:
    """An iterable whose ``len()`` raises."""

    def __len__(self) -> int:
        raise RuntimeError("not today")

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


def test_track_with_raising_length_has_no_total(recorder: Recorder) -> None:
    """The loop runs, and its total is unknown."""
    tracked = progress.track(UnknownLength())
    assert [number for number in tracked] == [1, 2]  # noqa: C416 - list() would call len()
    assert get_ended(recorder)[0].total is None


# --- lengths and shared iterators ----------------------------------------------------------------


class _Query:
    """Iterable whose length is expensive."""

    def __init__(self) -> None:
        self.length_calls = 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __len__(self) -> int:
        self.length_calls += 1
        return 3


def test_track_without_configure_requests_no_length() -> None:
    query = _Query()
    assert sum(1 for _ in progress.track(query)) == 3
    assert query.length_calls == 0


@pytest.mark.parametrize("total", [None, 3])
def test_track_requests_the_length_only_without_total(recorder: Recorder, total: int | None) -> None:
    query = _Query()
    for _ in progress.track(query, total=total):
        pass
    assert query.length_calls == (1 if total is None else 0)
    assert recorder.runtime.get_history()[0].root.total == 3


def test_track_with_handle_from_before_the_start_reads_the_length(recorder: Recorder) -> None:
    tracked = progress.track(_Query())
    tracked.level.update(message="soon")
    for _ in tracked:
        pass
    assert recorder.runtime.get_history()[0].root.total == 3


def _share(source: Iterable[int], threads: int, total: int | None = None) -> list[int]:
    """Iterate over one iterator in several threads. Returns all elements, sorted."""
    shared, elements, errors = iter(progress.track(source, "shared", total=total)), [], []

    def work() -> None:
        try:
            for element in shared:
                elements.append(element)  # noqa: PERF402 - the loop is what is tested
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_S)
    assert errors == []
    return sorted(elements)


class _Jobs:
    """Iterator over a queue that threads may share.

    ``iter(jobs.get, None)`` can lose an element when another thread receives None first.
    """

    def __init__(self, jobs: queue.Queue[int | None]) -> None:
        self._jobs = jobs

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        job = self._jobs.get()
        if job is None:
            raise StopIteration
        return job


def test_threads_share_an_iterator_that_blocks(lenient: Recorder) -> None:
    """Each element is received once."""
    jobs: queue.Queue[int | None] = queue.Queue()
    feeder = threading.Thread(target=lambda: [jobs.put(job) for job in [*range(200), *[None] * 4]])
    feeder.start()
    assert _share(_Jobs(jobs), 4) == list(range(200))
    feeder.join(WAIT_S)
    (operation,) = lenient.runtime.get_history()
    # Why a range: the thread that receives the first None ends the level.
    assert 196 <= operation.root.current <= 200
    assert operation.status is Status.COMPLETED


@pytest.fixture
def rapid_switches() -> Iterator[None]:
    """Let threads interrupt each other at almost every line."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("rapid_switches")
@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("make", [list, lambda numbers: map(abs, numbers)])
def test_threads_that_share_an_iterator_count_all_elements_before_the_end(
    make: Callable[[range], Iterable[int]], is_strict: bool
) -> None:
    """No element is counted late, and no thread receives an error."""
    for _ in range(25):
        with recording(strict=is_strict) as recorder:
            assert _share(make(range(100)), 4, total=100) == list(range(100))
            (operation,) = recorder.runtime.get_history()
            assert (operation.root.current, operation.status) == (100, Status.COMPLETED)


def test_shared_iterator_with_more_elements_than_its_total_is_rejected_in_strict_mode(
    recorder: Recorder,
) -> None:
    """The element above the total does not count, as with a loop of one thread."""
    shared = iter(progress.track(map(abs, range(4)), "shared", total=2))
    assert [next(shared), next(shared), next(shared)] == [0, 1, 2]
    with pytest.raises(RejectedValueError, match="at most the total 2"):
        next(shared)
    (operation,) = recorder.runtime.get_history()
    assert (operation.root.current, operation.status) == (2, Status.FAILED)


def test_threads_share_the_iterator_of_a_list(lenient: Recorder) -> None:
    assert _share(list(range(5_000)), 4) == list(range(5_000))
    (operation,) = lenient.runtime.get_history()
    assert (operation.root.current, operation.status) == (5_000, Status.COMPLETED)


def test_error_of_a_shared_iterable_reaches_the_caller_and_fails_the_level(recorder: Recorder) -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise ValueError("generator already executing")

    shared = iter(progress.track(produce()))
    assert next(shared) == 1
    with pytest.raises(ValueError, match="already executing"):
        next(shared)
    assert recorder.runtime.get_history()[0].status is Status.FAILED


@pytest.mark.parametrize(
    "consume",
    [
        list,
        tuple,
        lambda loop: [x for x in loop],  # noqa: C416
        lambda loop: [*loop],
    ],
)
@pytest.mark.parametrize("make", [list, iter, lambda numbers: (n for n in numbers), tuple, deque])
def test_any_consumer_receives_all_elements_and_completes(
    recorder: Recorder, consume: Callable[[Any], Any], make: Callable[[list[int]], Any]
) -> None:
    assert list(consume(progress.track(make([1, 2, 3]), total=3))) == [1, 2, 3]
    root = recorder.runtime.get_history()[0].root
    assert (root.current, root.total, root.status) == (3, 3, Status.COMPLETED)


def test_iterator_dropped_early_cancels_the_level(recorder: Recorder) -> None:
    for source in ([1, 2, 3], iter((1, 2, 3)), (n for n in (1, 2, 3))):
        loop = iter(progress.track(source, total=3))
        assert (next(loop), next(loop)) == (1, 2)
        del loop
        gc.collect()
        root = recorder.runtime.get_history()[0].root
        assert (root.current, root.status, root.message) == (1, Status.CANCELLED, "stopped before the end")


def _consume(pairs: Iterable[Any]) -> None:
    """Request all elements, and drop the iterator."""
    for _ in pairs:
        pass


_SOURCES: list[Callable[[], Iterable[int]]] = [
    lambda: [1, 2, 3],
    lambda: range(3),
    lambda: map(abs, (1, 2, 3)),
    lambda: (number for number in (1, 2, 3)),
]


@pytest.mark.parametrize("make", _SOURCES)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda loop: zip("abc", loop),  # noqa: B905 - the test is about the default
        lambda loop: zip(loop, "abc"),  # noqa: B905
        lambda loop: zip("abc", loop, strict=True),
        lambda loop: zip("abc", enumerate(loop)),  # noqa: B905
        lambda loop: enumerate(zip("abc", loop)),  # noqa: B905
        lambda loop: islice(loop, 3),
        lambda loop: map(lambda letter, number: (letter, number), "abc", loop),
        lambda loop: map(lambda number, letter: (letter, number), loop, "abc"),
        lambda loop: [next(loop) for loop in [iter(loop)] for _ in range(3)],
    ],
)
def test_loop_that_is_dropped_after_its_last_element_completes(
    make: Callable[[], Iterable[int]], strict: bool, wrap: Callable[[Iterable[int]], Iterable[Any]]
) -> None:
    """``zip`` requests no end of its second iterable."""
    with recording(strict=strict) as recorder:
        _consume(wrap(progress.track(make(), total=3)))
        (last,) = get_ended(recorder)
        assert (last.status, last.current, last.total, last.message) == (Status.COMPLETED, 3, 3, None)
        with progress.operation("o", id="o"):
            _consume(wrap(progress.track(make(), total=3)))
        (level,) = recorder.operation("o").levels
        assert (level.status, level.current, level.message) == (Status.COMPLETED, 3, None)


@pytest.mark.parametrize("make", _SOURCES)
@pytest.mark.parametrize(
    ("wrap", "count"),
    [
        (lambda loop: zip("ab", loop), 1),  # noqa: B905
        (lambda loop: islice(loop, 2), 1),
        (lambda loop: islice(loop, 0), 0),
        (lambda loop: zip("", loop), 0),  # noqa: B905
        (lambda loop: map(lambda letter, number: (letter, number), "ab", loop), 1),
    ],
)
def test_loop_that_is_dropped_before_its_last_element_is_cancelled(
    recorder: Recorder,
    make: Callable[[], Iterable[int]],
    wrap: Callable[[Iterable[int]], Iterable[Any]],
    count: int,
) -> None:
    _consume(wrap(progress.track(make(), total=3)))
    gc.collect()
    (last,) = get_ended(recorder)
    assert (last.status, last.current, last.message) == (Status.CANCELLED, count, "stopped before the end")


@pytest.mark.usefixtures("recorder")
def test_handle_of_a_dropped_loop_reports_its_end() -> None:
    tracked = progress.track([1, 2, 3])
    _consume(zip("abc", tracked))  # noqa: B905 - the default is what is tested
    snapshot = tracked.level.snapshot()
    assert (snapshot.status, snapshot.current) == (Status.COMPLETED, 3)


def test_dropped_loop_without_total_is_cancelled(recorder: Recorder) -> None:
    """Its last element is unknown."""
    _consume(zip("abc", progress.track(map(abs, range(3)))))  # noqa: B905 - the default is what is tested
    (last,) = get_ended(recorder)
    assert (last.status, last.current) == (Status.CANCELLED, 2)


def test_dropped_loop_without_elements_completes(recorder: Recorder) -> None:
    _consume(zip([], progress.track([])))  # noqa: B905 - the default is what is tested
    (last,) = get_ended(recorder)
    assert (last.status, last.current, last.total) == (Status.COMPLETED, 0, 0)


@pytest.mark.parametrize("make", _SOURCES)
def test_exception_at_the_last_element_cancels_a_dropped_loop_of_an_operation(
    recorder: Recorder, make: Callable[[], Iterable[int]]
) -> None:
    """The operation fails before the loop could be complete."""
    with pytest.raises(ZeroDivisionError), progress.operation("o", id="o"):  # noqa: PT012
        for index, _ in enumerate(progress.track(make(), total=3)):
            _ = 1 / (2 - index)
    gc.collect()
    (level,) = recorder.operation("o").levels
    assert (level.status, level.current, level.message) == (Status.CANCELLED, 2, "stopped before the end")


def test_loop_beyond_its_total_completes_when_it_is_dropped(lenient: Recorder) -> None:
    _consume(zip("abcd", progress.track(range(5), total=2)))  # noqa: B905 - the default is what is tested
    (last,) = get_ended(lenient)
    assert (last.status, last.current, last.total) == (Status.COMPLETED, 2, 2)


def test_tasks_share_an_async_iterator(recorder: Recorder) -> None:
    async def produce_from(jobs: asyncio.Queue[int | None]) -> None:
        for job in [*range(50), *[None] * 3]:
            await jobs.put(job)
            await asyncio.sleep(0)

    class Jobs:
        """Async iterator that tasks may share."""

        def __init__(self, jobs: asyncio.Queue[int | None]) -> None:
            self._jobs = jobs

        def __aiter__(self) -> AsyncIterator[int]:
            return self

        async def __anext__(self) -> int:
            job = await self._jobs.get()
            if job is None:
                raise StopAsyncIteration
            return job

    async def main() -> list[int]:
        jobs: asyncio.Queue[int | None] = asyncio.Queue()
        shared = aiter_of(progress.track(Jobs(jobs), "shared"))
        received: list[int] = []

        async def work() -> None:
            async for job in shared:
                received.append(job)  # noqa: PERF401 - the loop is what is tested

        await asyncio.gather(produce_from(jobs), *(work() for _ in range(3)))
        return sorted(received)

    assert asyncio.run(main()) == list(range(50))
    assert recorder.runtime.get_history()[0].status is Status.COMPLETED


def aiter_of(tracked: progress.Track[int]) -> AsyncIterator[int]:
    return tracked.__aiter__()
