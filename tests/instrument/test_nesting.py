"""Tests of ``track`` in the body of another ``track``."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from opentelemetry import trace

import otel_progress as progress
from otel_progress import Status
from otel_progress.instrument import nesting
from otel_progress.testing import Recorder, recording

WAIT_S = 60.0


def outer(count: int = 3) -> progress.Track[int]:
    return progress.track(range(count), type="outer")


def inner(count: int = 2) -> progress.Track[int]:
    return progress.track(range(count), type="inner")


def run_inner(_: object = None) -> int:
    """Run one loop of type ``inner``."""
    return sum(inner())


def get_trees(recorder: Recorder) -> list[str]:
    """Return each ended operation with the paths of its levels, oldest first."""
    trees = []
    for ended in reversed(recorder.runtime.get_history()):
        operation = recorder.runtime.get_operation(ended.operation_id)
        assert operation is not None
        trees.append(" ".join([operation.operation_type, *sorted(level.path for level in operation.levels)]))
    return trees


NESTED = "outer inner:1 inner:2 inner:3"
SEPARATE = ["outer", "inner", "inner", "inner"]


# --- loops that are nested -----------------------------------------------------------------------


def use_for() -> None:
    for _ in outer():
        for _ in inner():
            pass


def use_call() -> None:
    for _ in outer():
        run_inner()


def use_enumerate() -> None:
    for _, _ in enumerate(outer()):
        for _, _ in enumerate(inner()):
            pass


def use_zip() -> None:
    for _, _ in zip("abc", outer(), strict=True):
        run_inner()


def use_next() -> None:
    iterator = iter(outer())
    while next(iterator, None) is not None:
        run_inner()


def use_list_comprehension() -> None:
    _ = [[y for y in inner()] for x in outer()]  # noqa: C416


def use_generator_expression() -> None:
    assert sum(run_inner(number) for number in outer()) == 3


def use_generator_expression_of_the_same_function() -> None:
    for _ in (number for number in outer()):
        run_inner()


def use_map() -> None:
    assert list(map(run_inner, outer())) == [1, 1, 1]


def use_key_function() -> None:
    """One call requests the iterator and calls the function."""
    max(outer(), key=run_inner)


def use_iterator_without_safe_type() -> None:
    for _ in enumerate(progress.track(map(abs, range(3)), type="outer")):
        run_inner()


def use_handler() -> None:
    """Newer interpreters place handlers behind the other code of a function."""
    for number in outer():
        try:
            _ = 1 / (number - number)
        except ZeroDivisionError:
            run_inner()


def use_long_body() -> None:
    """A long jump needs an extended argument."""
    body = "\n".join(["    x = number + number * 2"] * 400)
    names = {"outer": outer, "run_inner": run_inner}
    exec(f"for number in outer():\n{body}\n    run_inner()", names)


def use_generator_function() -> None:
    """Its frame runs when it starts the inner loop."""

    def produce() -> Iterator[int]:
        for number in outer():
            run_inner()
            yield number

    assert list(produce()) == [0, 1, 2]


def use_level_before_the_loop() -> None:
    for _ in outer():
        tracked = inner()
        tracked.level.update(message="soon")
        assert list(tracked) == [0, 1]


def use_async_for() -> None:
    async def main() -> None:
        async for _ in progress.track(count_async(3), type="outer", total=3):
            run_inner()

    asyncio.run(main())


def use_async_iterator() -> None:
    async def main() -> None:
        iterator = progress.track(count_async(3), type="outer").__aiter__()
        for _ in range(3):
            await iterator.__anext__()
            run_inner()
        with suppress(StopAsyncIteration):
            await iterator.__anext__()

    asyncio.run(main())


def use_awaited_coroutine() -> None:
    async def part() -> None:
        await asyncio.sleep(0)
        async for _ in progress.track(count_async(2), type="inner"):
            pass

    async def main() -> None:
        for _ in outer():
            await part()

    asyncio.run(main())


def use_event_loop_in_the_body() -> None:
    async def part() -> None:
        await asyncio.create_task(asyncio.sleep(0))
        run_inner()

    for _ in outer():
        asyncio.run(part())


async def count_async(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "work",
    [
        use_for,
        use_call,
        use_enumerate,
        use_zip,
        use_next,
        use_list_comprehension,
        use_generator_expression,
        use_generator_expression_of_the_same_function,
        use_map,
        use_key_function,
        use_iterator_without_safe_type,
        use_handler,
        use_long_body,
        use_generator_function,
        use_level_before_the_loop,
        use_async_for,
        use_async_iterator,
        use_awaited_coroutine,
        use_event_loop_in_the_body,
    ],
)
def test_track_in_the_body_of_another_one_is_a_level_below(work: Callable[[], None], strict: bool) -> None:
    with recording(strict=strict) as recorder:
        work()
        assert get_trees(recorder) == [NESTED]
        root = recorder.runtime.get_history()[0].root
        assert (root.status, root.current) == (Status.COMPLETED, 3)


def test_nested_track_leaves_the_context_unchanged(recorder: Recorder) -> None:
    for _ in outer():
        assert not progress.current_level().recording
        for _ in inner():
            assert not progress.current_level().recording
            assert not trace.get_current_span().get_span_context().is_valid
    assert get_trees(recorder) == [NESTED]


def test_three_loops_of_one_function_are_three_levels(recorder: Recorder) -> None:
    for _ in progress.track([1], type="a"):
        for _ in progress.track([1, 2], type="b"):
            for _ in progress.track([1], type="c"):
                pass
        for _ in progress.track([1], type="d"):
            pass
    assert get_trees(recorder) == ["a b:1 b:1/c:1 b:1/c:2 d:1"]


def test_recursion_nests_as_deep_as_its_loops(recorder: Recorder) -> None:
    def walk(depth: int) -> None:
        for _ in progress.track([1], type="walk"):
            if depth:
                walk(depth - 1)

    walk(60)
    (operation,) = recorder.runtime.get_history()
    levels = recorder.operation(operation.operation_id).levels
    assert max(level.path.count("/") for level in levels) == 59
    assert {level.status for level in levels} == {Status.COMPLETED}


def test_loop_in_the_iterable_of_a_loop_is_a_level_of_it(recorder: Recorder) -> None:
    """The outer loop is requesting an element when the inner one starts."""

    def read() -> Iterator[int]:
        for block in progress.track([[1, 2], [3]], type="block"):
            yield from block

    for _ in progress.track(read(), type="row"):
        pass
    assert get_trees(recorder) == ["row block:1"]


def test_thousand_inner_loops_are_one_operation_with_bounded_memory(recorder: Recorder) -> None:
    for _ in outer(1_000):
        run_inner()
    (root,) = (operation.root for operation in recorder.runtime.get_history())
    assert (root.current, root.ended_levels.completed) == (1_000, 1_000)
    (operation,) = recorder.runtime.get_history()
    levels = recorder.operation(operation.operation_id).levels
    assert 0 < len(levels) <= 400
    assert levels[-1].path == "inner:1000"


# --- loops that are not nested -------------------------------------------------------------------


def use_siblings() -> None:
    run_inner()
    for _ in outer():
        pass


def use_break() -> None:
    for _ in outer():
        break
    run_inner()


def use_exception() -> None:
    with suppress(ZeroDivisionError):
        for number in outer():
            _ = 1 / number
    run_inner()


def use_async_exception() -> None:
    """The event loop closes the iterator of the first loop later."""

    async def main() -> None:
        with suppress(ZeroDivisionError):
            async for number in progress.track(count_async(3), type="outer"):
                _ = 1 / number
        run_inner()

    asyncio.run(main())


def use_suspended_generator() -> None:
    def produce() -> Iterator[int]:
        yield from outer(1)

    for _ in produce():
        run_inner()


def use_suspended_loop() -> None:
    def produce() -> Iterator[int]:
        for number in outer(1):  # noqa: UP028 - the loop is what is tested
            yield number

    for _ in produce():
        run_inner()


def use_unstarted_iterator() -> None:
    waiting = iter(outer(1))
    run_inner()
    assert next(waiting) == 0


def use_thread() -> None:
    for _ in outer(1):
        thread = threading.Thread(target=run_inner)
        thread.start()
        thread.join(WAIT_S)


def use_track_of_another_thread() -> None:
    """It is created in the body, but another thread runs the loop."""
    for _ in outer(1):
        thread = threading.Thread(target=list, args=(inner(),))
        thread.start()
        thread.join(WAIT_S)


def use_task() -> None:
    async def part() -> None:
        run_inner()

    async def main() -> None:
        for _ in outer(1):
            await asyncio.create_task(part())

    asyncio.run(main())


def use_track_from_before_the_loop() -> None:
    earlier = inner()
    for _ in outer(1):
        assert list(earlier) == [0, 1]


def use_operation_in_the_body() -> None:
    for _ in outer(1):
        with progress.operation("inner"):
            run_inner()


def use_resumed_loop() -> None:
    """The name of a resumed loop is the id of its operation."""
    for _ in outer(1):
        list(progress.track([1], "rows", type="inner", key=str, resume=True))


@pytest.mark.parametrize(
    "work",
    [
        use_siblings,
        use_break,
        use_exception,
        use_async_exception,
        use_suspended_generator,
        use_suspended_loop,
        use_unstarted_iterator,
        use_thread,
        use_track_of_another_thread,
        use_task,
        use_track_from_before_the_loop,
        use_operation_in_the_body,
        use_resumed_loop,
    ],
)
def test_track_outside_of_the_body_of_another_one_is_an_operation(
    recorder: Recorder, work: Callable[[], None]
) -> None:
    work()
    gc.collect()
    trees = [tree.replace("inner inner:1", "inner") for tree in get_trees(recorder)]
    assert sorted(trees) == ["inner", "outer"]


@pytest.mark.parametrize("is_in_operation", [False, True])
def test_tracks_in_one_zip_are_siblings(recorder: Recorder, is_in_operation: bool) -> None:
    def work() -> None:
        for _, _ in zip(progress.track(range(2), type="a"), progress.track(range(2), type="b"), strict=True):
            run_inner()

    if is_in_operation:
        with progress.operation("o"):
            work()
        (tree,) = get_trees(recorder)
        assert tree in {"o a:1 a:1/inner:1 a:1/inner:2 b:1", "o a:1 b:1 b:1/inner:1 b:1/inner:2"}
    else:
        work()
        assert sorted(get_trees(recorder)) == ["a", "b inner:1 inner:2"]


def test_iterator_that_its_function_returned_does_not_nest_later_calls(recorder: Recorder) -> None:
    """The frame of a later call often has the same identity."""

    def make() -> Iterator[tuple[int, int]]:
        identities.append(id(sys._getframe()))
        return enumerate(progress.track(range(2), type="a"))

    identities: list[int] = []
    iterators = []
    for _ in range(50):
        iterators.append(make())
        next(iterators[-1])
    assert len(set(identities)) < 50
    assert [len(list(iterator)) for iterator in iterators] == [1] * 50
    assert get_trees(recorder) == ["a"] * 50


def test_tasks_that_run_loops_at_the_same_time_do_not_nest(recorder: Recorder) -> None:
    async def work() -> None:
        for _ in outer(3):
            await asyncio.sleep(0)
            async for _ in progress.track(count_async(2), type="inner"):
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(5)))

    asyncio.run(main())
    assert get_trees(recorder) == [NESTED] * 5


def test_threads_that_run_loops_at_the_same_time_do_not_nest(recorder: Recorder) -> None:
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait(WAIT_S)
        for _ in outer():
            run_inner()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert get_trees(recorder) == [NESTED] * 4


# --- current level, handles and spans ------------------------------------------------------------


def test_current_level_around_the_loops_is_above_both(recorder: Recorder) -> None:
    with progress.operation("o"):
        for _ in outer(1):
            run_inner()
    assert get_trees(recorder) == ["o outer:1 outer:1/inner:1"]


def test_current_level_from_the_body_has_precedence(recorder: Recorder) -> None:
    with progress.operation("o"):
        for number in outer(2):
            with progress.level("step", number):
                run_inner()
    assert get_trees(recorder) == ["o outer:1 step:0 step:0/inner:1 step:1 step:1/inner:1"]


def test_track_of_a_handle_is_below_the_handle(recorder: Recorder) -> None:
    with progress.operation("o") as op:
        for _ in op.track([1], type="outer"):
            for _ in op.track([1], type="inner"):
                pass
    assert get_trees(recorder) == ["o inner:1 outer:1"]


def test_track_below_an_ended_loop_level_is_recorded(recorder: Recorder) -> None:
    """The program may end the level of a loop in its body."""
    tracked = outer(1)
    for _ in tracked:
        tracked.level.complete()
        run_inner()
    assert get_trees(recorder) == ["outer", "inner"]


def test_track_with_a_handle_from_the_body_is_recorded_after_the_loop(recorder: Recorder) -> None:
    for _ in outer(1):
        late = inner()
        assert not late.level._node.status.finished
    assert list(late) == [0, 1]
    assert get_trees(recorder) == ["outer", "inner"]


def test_loop_that_is_left_ends_the_loop_below_it(recorder: Recorder) -> None:
    for _ in outer():
        iterator = iter(progress.track(range(5), type="inner"))
        next(iterator)
        break
    (operation,) = recorder.runtime.get_history()
    (level,) = recorder.operation(operation.operation_id).levels
    assert (operation.status, level.status) == (Status.CANCELLED, Status.CANCELLED)


def test_failure_of_an_inner_iterable_fails_its_level(recorder: Recorder) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    for _ in outer(2):
        with suppress(OSError):
            list(progress.track(broken(), type="inner"))
    (operation,) = recorder.runtime.get_history()
    assert (operation.status, operation.root.current) == (Status.COMPLETED, 2)
    levels = recorder.operation(operation.operation_id).levels
    assert [level.status for level in levels] == [Status.FAILED] * 2


def test_cancellation_stops_inner_and_outer_loop(recorder: Recorder) -> None:
    with pytest.raises(progress.OperationCancelledError):  # noqa: PT012 - the block is what is tested
        for _ in outer():
            for number in inner(5):
                if number == 1:
                    (running,) = recorder.runtime.get_active_operations()
                    assert recorder.runtime._store.request_cancel(running.operation_id, "enough")
    (operation,) = recorder.runtime.get_history()
    (level,) = recorder.operation(operation.operation_id).levels
    assert (operation.status, level.status) == (Status.CANCELLED, Status.CANCELLED)


@pytest.mark.parametrize("strict", [False, True])
def test_loop_counts_its_elements_and_not_the_loops_in_its_body(strict: bool) -> None:
    """Also before its first element is done."""

    async def main() -> list[int]:
        counts = []
        tracked = progress.track(count_async(3), type="outer", total=3)
        async for _ in tracked:
            run_inner()
            run_inner()
            counts.append(tracked.level.snapshot().current)
        return counts

    with recording(strict=strict):
        assert asyncio.run(main()) == [0, 1, 2]
        tracked = outer()
        counts = []
        for _ in tracked:
            run_inner()
            run_inner()
            counts.append(tracked.level.snapshot().current)
        assert counts == [0, 1, 2]


def test_loop_without_total_has_not_the_ratio_of_a_loop_in_its_body(recorder: Recorder) -> None:
    async def main() -> None:
        async for _ in progress.track(count_async(1), type="outer"):
            for number in inner(4):
                if number == 2:
                    (seen,) = recorder.runtime.get_active_operations()
                    assert [seen.ratio, *(level.ratio for level in seen.levels)] == [None, 0.5]

    asyncio.run(main())


def test_span_of_a_nested_loop_is_below_that_of_the_loop_around_it(recorder: Recorder) -> None:
    tracer = recorder.provider.get_tracer("test")
    with tracer.start_as_current_span("request"):
        for _ in outer(1):
            run_inner()
            with tracer.start_as_current_span("body"):
                run_inner()
    spans = {span.context.span_id: span for span in recorder.spans() if span.context is not None}
    parents = [
        (span.name, None if span.parent is None else spans[span.parent.span_id].name)
        for span in spans.values()
    ]
    assert sorted(parents, key=str) == [
        ("body", "request"),
        ("inner", "body"),
        ("inner", "outer"),
        ("outer", "request"),
        ("request", None),
    ]


# --- the registry --------------------------------------------------------------------------------


class _Local:
    """Object that a function references."""


def test_registry_keeps_no_variable_of_the_callers_frame(recorder: Recorder) -> None:
    def work(wrap: Callable[[Iterable[int]], Iterable[Any]]) -> weakref.ref[_Local]:
        local = _Local()
        iterator = wrap(outer())
        for _ in islice(iterator, 2):
            run_inner()
        return weakref.ref(local)

    gc.disable()
    try:
        for wrap in (iter, enumerate, lambda loop: (x for x in loop)):
            assert work(wrap)() is None
    finally:
        gc.enable()
    assert recorder.runtime.get_active_operations() == []


@pytest.mark.usefixtures("recorder")
def test_registry_is_empty_after_the_loops() -> None:
    for _ in range(3):
        use_for()
        use_enumerate()
        use_break()
    for _ in outer():  # the search of another loop drops what has ended
        pass
    for _ in outer(1):
        assert len(nesting._registry.loops) == 1


@pytest.mark.usefixtures("recorder")
def test_registry_is_bounded_while_iterators_overlap() -> None:
    """The newest iterator is always running, so ended ones are not at the end."""

    def make(depth: int) -> Iterator[int]:
        return make(depth - 1) if depth else iter(outer())

    running = make(0)
    for number in range(2_000):
        replacement = make(number % 50)
        next(replacement)
        running = replacement
    assert next(running) == 1
    assert sum(map(len, nesting._registry.loops.values())) < 4 * nesting._MIN_SWEEP
    same_frame = [iter(outer()) for _ in range(100)]
    assert max(map(len, nesting._registry.loops.values())) <= nesting.MAX_LOOPS_PER_FRAME
    del same_frame


@pytest.mark.process
def test_audit_hook_and_shared_iterators_raise_nothing_in_loops() -> None:
    """An audit hook may forbid frames. Loops are not nested then."""
    program = """
import sys, threading
import otel_progress as progress

sys.setswitchinterval(1e-6)
progress.configure(service_name="t", console=False, store="memory:")
is_strict = sys.argv[1] == "raise"

def audit(event, arguments):
    if is_strict and event == "sys._getframe":
        raise RuntimeError("frames are forbidden")

sys.addaudithook(audit)
errors = []
for make in (lambda: range(400), lambda: map(abs, range(400)), lambda: [1] * 400) * 3:
    shared, elements = iter(progress.track(make(), total=400)), []

    def work():
        try:
            for number in shared:
                elements.append(number)
                if number % 100 == 0:
                    for _ in progress.track([1, 2]):
                        pass
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(elements) == 400, len(elements)
for _ in progress.track([1, 2]):
    loop = progress.track([1, 2])
    loop.level.set_total(2)
    for _ in loop:
        loop.level.increment(-5)
print(errors)
"""
    # Why not: Python 3.10 calls the hook like a signal handler, whose exceptions are not caught.
    modes = ("record", "raise") if sys.version_info >= (3, 11) else ("record",)
    for mode in modes:
        done = subprocess.run(
            [sys.executable, "-c", program, mode], capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
