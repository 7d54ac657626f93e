"""Where levels stand: in threads, tasks, contexts, and under plain spans."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace

import otel_progress as progress
from otel_progress import Status, semconv
from otel_progress.testing import Recorder, wait_until


def parents(recorder: Recorder) -> dict[str, str | None]:
    """Return the parent's span name by span name."""
    names = {span.get_span_context().span_id: span.name for span in recorder.spans()}
    return {
        span.name: None if span.parent is None else names[span.parent.span_id] for span in recorder.spans()
    }


def test_children_of_a_handle_in_other_threads(recorder: Recorder) -> None:
    """A child made from a handle has that handle above it in whatever thread it runs, span and level."""
    with progress.operation("o", id="o", total=40) as op:

        def work(number: int) -> str:
            assert not progress.current_level().recording
            with op.level("part", number) as part:
                assert progress.current_level() is part
                return progress.level("inner").path

        with ThreadPoolExecutor(4) as pool:
            paths = list(pool.map(work, range(40)))
    assert paths == [f"part:{number}/inner:1" for number in range(40)]
    assert parents(recorder) == {"o": None, "part": "o", "inner": "part"}
    assert recorder.operation("o").root.current == 40


@pytest.mark.usefixtures("recorder")
def test_tasks_have_their_own_current_level() -> None:
    """Each task sees the level it began in, and what it begins is below that."""

    async def part(number: int) -> str:
        async with progress.level("part", number):
            await asyncio.sleep(0)
            return await asyncio.to_thread(lambda: progress.current_level().path)

    async def work() -> list[str]:
        async with progress.operation("o", id="o"):
            return await asyncio.gather(*(part(number) for number in range(8)))

    assert asyncio.run(work()) == [f"part:{number}" for number in range(8)]


@pytest.mark.usefixtures("recorder")
def test_after_each_block_the_level_around_it_is_current() -> None:
    """Blocks nest, and nothing is current in the end, neither level nor span."""
    before = context_api.get_current()
    with progress.operation("o") as op:
        with op.level("a") as a:
            with progress.level("b") as b:
                assert progress.current_level() is b
                assert trace.get_current_span() is b.span
            assert progress.current_level() is a
        assert progress.current_level() is op
    assert context_api.get_current() == before
    assert not progress.current_level().recording


def test_operations_within_operations(recorder: Recorder) -> None:
    """An operation begun inside of another is one of its own, its span inside the other's trace."""
    with progress.operation("outer", id="outer"), progress.operation("inner", id="inner") as inner:
        assert inner.path == ""
        assert [one.operation_id for one in recorder.runtime.get_active_operations()] == ["inner", "outer"]
    assert parents(recorder) == {"inner": "outer", "outer": None}
    assert recorder.operation("outer").levels == []


def test_a_plain_span_in_between_is_the_parent_of_the_span(recorder: Recorder) -> None:
    """Levels follow levels; their spans follow whatever span is current."""
    tracer = recorder.provider.get_tracer("user")
    with progress.operation("o", id="o") as op, tracer.start_as_current_span("plain"):
        with progress.level("a") as below:
            assert below.path == "a:1"
        with op.level("b"):
            pass
    assert parents(recorder) == {"o": None, "plain": "o", "a": "plain", "b": "plain"}


def test_a_block_left_in_another_context(recorder: Recorder) -> None:
    """A handle entered in one thread or context and left in another ends cleanly and disturbs neither."""
    op = progress.operation("o", id="o")
    contextvars.copy_context().run(op.__enter__)
    thread = threading.Thread(target=op.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert recorder.operation("o").status is Status.COMPLETED
    assert not progress.current_level().recording


def test_blocks_left_out_of_order(recorder: Recorder) -> None:
    """Leaving the outer block first ends the inner one with it, once."""
    outer, inner = progress.operation("outer", id="o"), progress.level("inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    found = recorder.operation("o")
    assert [level.status for level in found.levels] == [Status.CANCELLED]
    assert found.levels[0].message == "ended with its parent"
    assert len(recorder.spans()) == 2
    context_api.attach(context_api.Context())


@pytest.mark.parametrize("block", [progress.operation, progress.batch], ids=["operation", "batch"])
def test_a_block_that_the_garbage_collector_leaves(recorder: Recorder, block: Callable[..., Any]) -> None:
    """A block in a generator that nobody finished is left when that is collected: whatever is current then stays so."""

    def unfinished() -> Iterator[None]:
        with block("forgotten", id="f"):
            yield

    generator = unfinished()
    next(generator)
    with progress.operation("outer", id="o") as outer:
        del generator  # its block is left here, in the middle of another one
        inside = context_api.get_current()
        assert progress.current_level() is outer
        with progress.level("inner") as inner:
            assert inner.operation_id == "o"
        assert context_api.get_current() is inside
    context_api.attach(context_api.Context())  # what such a block leaves to its caller
    assert recorder.operation("o").status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_a_level_whose_current_level_has_ended() -> None:
    """What begins in the block of a level that has ended already goes below the nearest one that runs."""
    with progress.operation("o", id="o"), progress.level("a") as a:
        a.complete()
        with progress.level("b") as b:
            assert (b.path, b.operation_id) == ("b:1", "o")


def test_a_forgotten_handle_is_closed_with_its_reason(recorder: Recorder) -> None:
    """A handle that is garbage-collected un-ended is ended at the next look, and says why."""
    with progress.operation("o", id="o") as op:
        forgotten = op.level("a").start()
        forgotten.increment()
        del forgotten
        gc.collect()
        recorder.tick()
        (level,) = recorder.operation("o").levels
        assert (level.status, level.current) == (Status.CANCELLED, 1)
        assert level.message == "its handle was garbage-collected before it ended"
        assert [span.name for span in recorder.spans()] == ["a"]


def test_a_forgotten_operation_takes_its_levels_along(recorder: Recorder) -> None:
    """An operation nobody holds any more ends with all below it."""
    op = progress.operation("o", id="o").start()
    level = op.level("a").start()
    del op, level
    gc.collect()
    assert recorder.runtime.get_active_operations() == []
    assert {span.name for span in recorder.spans()} == {"o", "a"}


def test_many_threads_at_once(recorder: Recorder) -> None:
    """Threads that begin, count and end levels of one operation lose none of it while it is being read."""
    recorder.runtime._ticker.set_background(True)
    with progress.operation("o", id="o", total=400) as op:

        def work(worker: int) -> None:
            for number in range(50):
                with op.level("part", f"{worker}-{number}", total=3) as part:
                    for _ in range(3):
                        part.increment()

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            ratio = recorder.operation("o").ratio
            assert ratio is not None
            assert 0.0 <= ratio <= 1.0
        for thread in threads:
            thread.join()
        recorder.tick()
        assert op.snapshot().current == 400
    wait_until(lambda: recorder.runtime._store.idle or recorder.tick(), 60.0)
    recorder.tick()  # takes its turn after the ticker's last one, which adds up what it collected at its end
    assert recorder.runtime._totals.read().counters[semconv.ITEMS]["o", "part", "completed"] == 1200
