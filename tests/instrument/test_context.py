"""Tests of the current level in threads, tasks, contexts and plain spans."""

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
from otel_progress.live.node import REASON_COLLECTED
from otel_progress.testing import Recorder, wait_until


def get_parents(recorder: Recorder) -> dict[str, str | None]:
    """Return the names of parent spans by span name."""
    names = {span.get_span_context().span_id: span.name for span in recorder.spans()}
    return {
        span.name: None if span.parent is None else names[span.parent.span_id] for span in recorder.spans()
    }


def test_child_of_handle_in_other_thread_has_that_parent(recorder: Recorder) -> None:
    """The handle is the parent of level and span in any thread."""
    with progress.operation("o", id="o", total=40) as op:

        def work(number: int) -> str:
            assert not progress.current_level().recording
            with op.level("part", number) as part:
                assert progress.current_level() is part
                return progress.level("inner").path

        with ThreadPoolExecutor(4) as pool:
            paths = list(pool.map(work, range(40)))
    assert paths == [f"part:{number}/inner:1" for number in range(40)]
    assert get_parents(recorder) == {"o": None, "part": "o", "inner": "part"}
    assert recorder.operation("o").root.current == 40


@pytest.mark.usefixtures("recorder")
def test_current_level_of_tasks_is_separate() -> None:
    """Each task has its own current level, inherited by threads of the task."""

    async def part(number: int) -> str:
        async with progress.level("part", number):
            await asyncio.sleep(0)
            return await asyncio.to_thread(lambda: progress.current_level().path)

    async def work() -> list[str]:
        async with progress.operation("o", id="o"):
            return await asyncio.gather(*(part(number) for number in range(8)))

    assert asyncio.run(work()) == [f"part:{number}" for number in range(8)]


@pytest.mark.usefixtures("recorder")
def test_current_level_after_a_block_is_restored() -> None:
    """After the outermost block there is no current level or span."""
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


def test_operation_inside_an_operation_is_separate(recorder: Recorder) -> None:
    """Its span is a child of the other operation's span."""
    with progress.operation("outer", id="outer"), progress.operation("inner", id="inner") as inner:
        assert inner.path == ""
        assert [active.operation_id for active in recorder.runtime.get_active_operations()] == [
            "inner",
            "outer",
        ]
    assert get_parents(recorder) == {"inner": "outer", "outer": None}
    assert recorder.operation("outer").levels == []


def test_level_below_a_plain_span_has_it_as_parent_span(recorder: Recorder) -> None:
    """The parent of a level is a level, and the parent of its span is any span."""
    tracer = recorder.provider.get_tracer("user")
    with progress.operation("o", id="o") as op, tracer.start_as_current_span("plain"):
        with progress.level("a") as level:
            assert level.path == "a:1"
        with op.level("b"):
            pass
    assert get_parents(recorder) == {"o": None, "plain": "o", "a": "plain", "b": "plain"}


def test_block_left_in_another_context_ends(recorder: Recorder) -> None:
    """Neither context changes."""
    op = progress.operation("o", id="o")
    contextvars.copy_context().run(op.__enter__)
    thread = threading.Thread(target=op.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert recorder.operation("o").status is Status.COMPLETED
    assert not progress.current_level().recording


def test_blocks_left_in_wrong_order_end_once(recorder: Recorder) -> None:
    """Leaving the outer block first also ends the inner level."""
    outer, inner = progress.operation("outer", id="o"), progress.level("inner")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    levels = recorder.operation("o").levels
    assert [level.status for level in levels] == [Status.CANCELLED]
    assert levels[0].message == "ended with its parent"
    assert len(recorder.spans()) == 2
    context_api.attach(context_api.Context())


@pytest.mark.parametrize("block", [progress.operation, progress.batch], ids=["operation", "batch"])
def test_block_left_by_garbage_collector_keeps_context(recorder: Recorder, block: Callable[..., Any]) -> None:
    """Collecting an unfinished generator leaves its block and keeps the current level."""

    def unfinished() -> Iterator[None]:
        with block("unfinished", id="f"):
            yield

    generator = unfinished()
    next(generator)
    with progress.operation("outer", id="o") as outer:
        del generator  # leaves its block inside the block of another level
        context = context_api.get_current()
        assert progress.current_level() is outer
        with progress.level("inner") as inner:
            assert inner.operation_id == "o"
        assert context_api.get_current() is context
    context_api.attach(context_api.Context())  # removes the context of the unfinished block
    assert recorder.operation("o").status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_level_below_an_ended_level_uses_its_ancestor() -> None:
    """In the block of an ended level the parent is the nearest running ancestor."""
    with progress.operation("o", id="o"), progress.level("a") as a:
        a.complete()
        with progress.level("b") as b:
            assert (b.path, b.operation_id) == ("b:1", "o")


def test_collected_handle_is_cancelled_at_next_tick(recorder: Recorder) -> None:
    """The message of the level names the reason."""
    with progress.operation("o", id="o") as op:
        collected = op.level("a").start()
        collected.increment()
        del collected
        gc.collect()
        recorder.tick()
        (level,) = recorder.operation("o").levels
        assert (level.status, level.current) == (Status.CANCELLED, 1)
        assert level.message == REASON_COLLECTED
        assert "garbage-collected before it ended: use `with`" in REASON_COLLECTED
        assert [span.name for span in recorder.spans()] == ["a"]


def test_collected_operation_ends_with_its_levels(recorder: Recorder) -> None:
    """An operation without references ends with all its levels."""
    op = progress.operation("o", id="o").start()
    level = op.level("a").start()
    del op, level
    gc.collect()
    assert recorder.runtime.get_active_operations() == []
    assert {span.name for span in recorder.spans()} == {"o", "a"}


def test_levels_of_many_threads_are_all_counted(recorder: Recorder) -> None:
    """No unit is lost while the operation is read at the same time."""
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
    recorder.tick()  # runs after the ticker's last tick, which adds its totals at its end
    assert recorder.runtime._totals.read().counters[semconv.ITEMS]["o", "part", "completed"] == 1200
