"""Bars of tqdm that are recorded without changes to the code that shows them."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib
import io
import math
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.instrument.pollers import has_active_poller
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import FakeClock, Recorder, recording
from tests.support.forks import needs_fork, run_in_child
from tests.support.interruptions import Interrupter, Raiser, fail_on_deadlock

pytest.importorskip("tqdm", reason="tests of the integration with tqdm")

from tqdm import asyncio as tqdm_asyncio
from tqdm import auto
from tqdm.contrib import concurrent
from tqdm.std import tqdm

from otel_progress.integrations import bars
from otel_progress.integrations import tqdm as integration
from otel_progress.tqdm import asyncio as drop_in_asyncio


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    progress.instrument_tqdm()
    yield
    integration.uninstrument()
    gc.collect()
    integration._drop_collected()
    assert not integration._recorder.is_active
    assert not has_active_poller()


def bar(*arguments: Any, **keywords: Any) -> Any:
    """Return a bar of tqdm that draws on a text in memory."""
    return tqdm(*arguments, **{"file": io.StringIO(), **keywords})


def work(recorder: Recorder, seconds: float = 2.0) -> None:
    """Let the time pass, and tick."""
    recorder.clock.advance(seconds)
    recorder.tick()


def list_operations(recorder: Recorder) -> list[OperationSnapshot]:
    """Return all operations with their levels, oldest first."""
    runtime = recorder.runtime
    found = [*runtime.get_history(), *runtime.get_active_operations()]
    return [
        recorder.operation(one.operation_id)
        for one in sorted(found, key=lambda one: one.root.info.started_at or 0)
    ]


def get_only(recorder: Recorder) -> OperationSnapshot:
    """Return the only operation."""
    (operation,) = list_operations(recorder)
    return operation


def get_level(recorder: Recorder) -> Any:
    """Return the only level of the operation ``job``."""
    (level,) = recorder.operation("job").levels
    return level


# --- operations and levels -----------------------------------------------------------------------


def test_bar_without_a_current_level_is_an_operation(recorder: Recorder) -> None:
    for element in bar(range(100), desc="rows", unit="row"):
        if element == 50:
            work(recorder)
            running = get_only(recorder).root
    operation = get_only(recorder)
    assert (operation.root.info.type, operation.root.info.name) == ("tqdm", "rows")
    assert (running.status, running.total) == (progress.Status.RUNNING, 100)
    assert operation.root.status is progress.Status.COMPLETED
    assert (operation.root.current, operation.root.total, operation.root.info.unit) == (100, 100, "row")


def test_bar_in_an_operation_is_a_level_below_it(recorder: Recorder) -> None:
    with progress.operation("job", id="job"):
        for _ in bar(range(3), desc="rows"):
            work(recorder)
    level = get_level(recorder)
    assert (level.info.type, level.info.name, level.status) == ("tqdm", "rows", progress.Status.COMPLETED)
    assert (level.current, level.total) == (3, 3)


def test_level_of_a_bar_starts_when_the_bar_was_created(recorder: Recorder) -> None:
    started = recorder.clock.wall()
    shown = bar(total=10)
    work(recorder, 5.0)
    root = get_only(recorder).root
    assert root.info.started_at == pytest.approx(started)
    shown.close()
    assert get_only(recorder).root.duration_s == pytest.approx(5.0)


def test_bar_shorter_than_a_second_leaves_nothing(recorder: Recorder) -> None:
    for _ in range(5):
        for _ in bar(range(10)):
            work(recorder, 0.05)
    assert list_operations(recorder) == []


def test_bar_created_before_configure_is_recorded() -> None:
    shown = bar(range(10))
    iterator = iter(shown)
    next(iterator)
    with recording() as recorder:
        work(recorder)
        assert get_only(recorder).root.info.type == "tqdm"
        iterator.close()  # type: ignore[attr-defined]


def test_bar_open_across_two_configurations_is_an_operation_in_each() -> None:
    shown = bar(total=10)
    clock = FakeClock()
    for _ in range(2):
        with recording(clock=clock) as recorder:
            clock.advance(2.0)
            recorder.tick()
            assert get_only(recorder).root.status is progress.Status.RUNNING
    shown.close()


def test_bar_open_before_instrument_is_recorded(recorder: Recorder) -> None:
    integration.uninstrument()
    shown = bar(total=10)
    progress.instrument_tqdm()
    shown.update(4)
    work(recorder)
    root = get_only(recorder).root
    assert (root.current, root.total) == (4, 10)
    shown.close()


def test_open_bar_wakes_the_ticker() -> None:
    with recording(ticking=True, clock=FakeClock()) as recorder:
        shown = bar(total=10)
        recorder.clock.advance(5.0)
        from otel_progress.testing import wait_until

        wait_until(lambda: recorder.runtime.get_active_operations())
        assert has_active_poller()
        shown.close()
        assert not has_active_poller()


def test_without_configure_nothing_is_recorded_and_nothing_changes() -> None:
    file = io.StringIO()
    assert list(tqdm(range(5), file=file, desc="rows")) == [0, 1, 2, 3, 4]
    assert "rows: 100%" in file.getvalue()


# --- nesting -------------------------------------------------------------------------------------


def test_bar_in_a_loop_over_a_bar_is_below_it(recorder: Recorder) -> None:
    for _ in bar(range(2), desc="outer"):
        for _ in bar(range(2), desc="inner"):
            work(recorder)
    operation = get_only(recorder)
    assert operation.root.info.name == "outer"
    assert [(level.info.name, level.status.value) for level in operation.levels] == [
        ("inner", "completed"),
        ("inner", "completed"),
    ]


def test_bar_in_the_block_of_a_bar_is_below_it(recorder: Recorder) -> None:
    with bar(total=2, desc="outer") as outer, bar(total=2, desc="inner") as inner:
        work(recorder)
        inner.update(2)
        outer.update(2)
    operation = get_only(recorder)
    assert (operation.root.info.name, operation.levels[0].info.name) == ("outer", "inner")


def test_zipped_bars_are_siblings(recorder: Recorder) -> None:
    for _ in zip(bar(range(3), desc="a"), bar(range(3), desc="b"), strict=True):
        work(recorder)
    assert sorted(operation.root.info.name or "" for operation in list_operations(recorder)) == ["a", "b"]


def test_bars_that_are_iterated_alternately_end(recorder: Recorder) -> None:
    first, second = bar(range(4), desc="first"), bar(range(4), desc="second")
    iterators = [iter(first), iter(second), iter(first)]
    for iterator in iterators:
        next(iterator)
    with second, first:
        work(recorder)
        with bar(total=1, desc="inner") as inner:
            work(recorder)
            inner.update()
    assert {one.root.info.name for one in list_operations(recorder)} == {"first", "second"}
    assert [level.info.name for one in list_operations(recorder) for level in one.levels] == ["inner"]


def test_level_in_a_loop_over_a_bar_is_the_parent_of_inner_bars(recorder: Recorder) -> None:
    with progress.operation("job", id="job"):
        for epoch in bar(range(1), desc="epochs"):
            with progress.level("epoch", epoch):
                for _ in bar(range(2), desc="batches"):
                    work(recorder)
    paths = sorted(level.info.path for level in recorder.operation("job").levels)
    assert paths == ["epoch:0", "epoch:0/tqdm:1", "tqdm:1"]


def list_names(recorder: Recorder) -> list[str]:
    """Return the names from the only operation down to each level, joined."""
    operation = get_only(recorder)
    names = {level.info.path: level.info.name or "" for level in operation.levels}
    return sorted(
        " > ".join([operation.root.info.name or "", *(names[path] for path in list_ancestors(each))])
        for each in names
    )


def list_ancestors(path: str) -> list[str]:
    """Return a path and those of the levels above it, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[: length + 1]) for length in range(len(parts))]


def test_track_in_a_loop_over_a_short_bar_is_below_it(recorder: Recorder) -> None:
    for _ in bar(range(3), desc="bar"):
        for _ in progress.track(range(2), name="rows"):
            pass
    assert list_names(recorder) == ["bar > rows"] * 3
    operation = get_only(recorder)
    assert (operation.root.current, operation.root.total, operation.root.status.value) == (3, 3, "completed")
    assert [level.current for level in operation.levels] == [2, 2, 2]


def test_bar_in_a_track_loop_is_below_it(recorder: Recorder) -> None:
    for _ in progress.track(range(3), name="rows"):
        for _ in bar(range(2), desc="bar"):
            work(recorder)
    assert list_names(recorder) == ["rows > bar"] * 3
    assert get_only(recorder).root.current == 3


def test_bars_and_tracks_nest_in_each_other(recorder: Recorder) -> None:
    for _ in progress.track([1], name="a"):
        for _ in bar([1], desc="b"):
            for _ in bar([1], desc="c"):
                for _ in progress.track([1], name="d"):
                    for _ in bar([1], desc="e"):
                        for _ in progress.track([1], name="f"):
                            work(recorder)
    names = ["a", "b", "c", "d", "e", "f"]
    assert list_names(recorder) == [" > ".join(names[: length + 1]) for length in range(1, len(names))]


def test_current_level_in_a_loop_over_a_bar_is_the_parent_of_tracks(recorder: Recorder) -> None:
    with progress.operation("job", "job", id="job"):
        for _ in bar([1], desc="bar"):
            with progress.level("epoch", name="epoch"):
                for _ in progress.track([1], name="rows"):
                    pass
    assert list_names(recorder) == ["job > epoch", "job > epoch > rows"]


@pytest.mark.parametrize(
    "combine",
    [
        lambda made, track: zip(made, track, strict=True),
        lambda made, track: zip(track, made, strict=True),
    ],
)
def test_zipped_bar_and_track_are_siblings(combine: Callable[..., Any], recorder: Recorder) -> None:
    with progress.operation("job", "job", id="job"):
        for _ in combine(bar(range(3), desc="bar"), progress.track(range(3), name="rows")):
            work(recorder)
    assert list_names(recorder) == ["job > bar", "job > rows"]


@pytest.mark.parametrize(
    "combine",
    [lambda: bar(progress.track(range(3), name="rows"), desc="bar"),
     lambda: progress.track(bar(range(3), desc="bar"), name="rows")],
)  # fmt: skip
def test_bar_and_track_of_one_loop_are_siblings(combine: Callable[[], Any], recorder: Recorder) -> None:
    with progress.operation("job", "job", id="job"):
        for _ in combine():
            work(recorder)
    assert list_names(recorder) == ["job > bar", "job > rows"]


def test_track_that_is_older_than_the_loop_over_a_bar_is_not_below_it(recorder: Recorder) -> None:
    with progress.operation("job", "job", id="job"):
        rows = progress.track(range(2), name="rows")
        for _ in bar([1], desc="bar"):
            for _ in rows:
                work(recorder)
    assert list_names(recorder) == ["job > bar", "job > rows"]


def test_track_after_the_loop_over_a_bar_is_not_below_it(recorder: Recorder) -> None:
    with progress.operation("job", "job", id="job"):
        for _ in bar([1], desc="bar"):
            work(recorder)
        for _ in progress.track([1], name="rows"):
            pass
        for _ in progress.track([1], name="left"):
            break
        for _ in bar([1], desc="last"):
            work(recorder)
    assert list_names(recorder) == ["job > bar", "job > last", "job > left", "job > rows"]


def test_bars_of_another_thread_do_not_nest(recorder: Recorder) -> None:
    def show_bar() -> None:
        for _ in bar(range(2), desc="thread"):
            work(recorder)

    for _ in bar(range(1), desc="main"):
        thread = threading.Thread(target=show_bar)
        thread.start()
        thread.join()
    assert sorted(operation.root.info.name or "" for operation in list_operations(recorder)) == [
        "main",
        "thread",
    ]


def test_thousands_of_nested_bars_are_bounded(recorder: Recorder) -> None:
    opened = []
    for number in range(3000):
        # Why disabled: tqdm itself needs a time that is quadratic in the number of visible bars.
        shown = bar(range(2), desc=str(number), disable=True)
        iterator = iter(shown)
        next(iterator)
        opened.append(iterator)
    work(recorder)
    operation = get_only(recorder)
    assert max(level.info.path.count("/") for level in operation.levels) < bars.MAX_DEPTH
    assert len(integration._recorder._records) == bars.MAX_BARS
    while opened:
        opened.pop().close()
    recorder.tick()
    assert not recorder.runtime.get_active_operations()


# --- figures -------------------------------------------------------------------------------------


def test_description_total_postfix_and_initial_are_read(recorder: Recorder) -> None:
    with bar(total=100, desc="epoch", initial=20, unit="B", unit_scale=True) as shown:
        work(recorder)
        shown.set_description("epoch 2")
        shown.set_postfix(loss=0.5, name="a")
        shown.total = 200
        shown.update(30)
        work(recorder)
        root = get_only(recorder).root
        assert (root.current, root.total, root.message) == (50, 200, "epoch 2")
        assert dict(root.metadata) == {"loss": 0.5, "name": "a"}
        assert (root.info.name, root.info.unit) == ("epoch", "B")
        assert root.resumed_from == 20
        shown.set_postfix_str("anything at all")
        shown.update(150)
        work(recorder)
        assert dict(get_only(recorder).root.metadata) == {"postfix": "anything at all"}
    assert get_only(recorder).root.status is progress.Status.COMPLETED


def test_reset_starts_the_count_again(recorder: Recorder) -> None:
    with bar(total=10) as shown:
        shown.update(10)
        work(recorder)
        shown.reset(total=5)
        shown.update(2)
        work(recorder)
        assert (get_only(recorder).root.current, get_only(recorder).root.total) == (2, 5)
        shown.update(3)


@pytest.mark.parametrize("n", [-5, math.nan, math.inf, "text", None, True, [], 10**30])
def test_invalid_count_is_ignored(recorder: Recorder, n: object) -> None:
    shown = bar(total=10)
    shown.update(4)
    work(recorder)
    shown.n = n
    work(recorder)
    assert get_only(recorder).root.current == 4
    shown.n = 5
    shown.close()
    assert get_only(recorder).root.current == 5


@pytest.mark.parametrize("total", [None, -1, 0.5])
def test_unusual_total_is_unknown_or_kept(recorder: Recorder, total: Any) -> None:
    shown = bar(range(3))
    shown.total = total
    for _ in shown:
        shown.n = 1
        work(recorder)
    root = get_only(recorder).root
    assert root.total is None
    assert root.status is progress.Status.COMPLETED


def test_infinite_total_is_unknown(recorder: Recorder) -> None:
    for _ in bar(iter(range(3)), total=math.inf):
        work(recorder)
    root = get_only(recorder).root
    assert (root.current, root.total, root.status) == (3, None, progress.Status.COMPLETED)


def test_negative_update_lowers_the_count(recorder: Recorder) -> None:
    with bar(total=10) as shown:
        shown.update(8)
        work(recorder)
        shown.update(-3)
        work(recorder)
        assert get_only(recorder).root.current == 5
        shown.update(5)


def test_count_beyond_the_total_makes_the_total_unknown(recorder: Recorder) -> None:
    with bar(total=10) as shown:
        shown.update(25)
        work(recorder)
    root = get_only(recorder).root
    assert (root.current, root.total, root.status) == (25, None, progress.Status.COMPLETED)


def test_description_with_control_characters_is_cleaned(recorder: Recorder) -> None:
    with bar(total=10, desc="\x1b[34m\x1b[1mtrain:\x1b[0m\n 3\x1b]0;t\x07") as shown:
        work(recorder)
        assert get_only(recorder).root.info.name == "train: 3"
        shown.update(10)


def test_subclass_with_broken_properties_works_and_is_recorded(recorder: Recorder) -> None:
    class Broken(tqdm):  # type: ignore[misc]
        @property
        def format_dict(self) -> Any:
            raise RuntimeError("broken")

        @property
        def postfix(self) -> Any:
            raise KeyError("broken")

        @postfix.setter
        def postfix(self, value: object) -> None:
            pass

        def refresh(self, *arguments: object, **keywords: object) -> None:
            pass

        def display(self, *arguments: object, **keywords: object) -> None:
            pass

    for _ in Broken(range(3), file=io.StringIO()):
        work(recorder)
    assert (get_only(recorder).root.current, get_only(recorder).root.status.value) == (3, "completed")


def test_bar_whose_reads_fail_is_dropped(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("broken")

    shown = bar(total=3)
    monkeypatch.setattr(integration.TqdmRecord, "read", fail)
    for _ in range(bars.MAX_FAILURES + 1):
        work(recorder)
    assert not integration._recorder.is_active
    shown.close()
    assert list_operations(recorder) == []


def test_subclass_with_its_own_attributes_is_recorded(recorder: Recorder) -> None:
    class Named(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, name: str = "", **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.name = name

    for _ in Named(range(3), name="x", file=io.StringIO(), desc="named"):
        work(recorder)
    assert get_only(recorder).root.info.name == "named"


# --- ends ----------------------------------------------------------------------------------------


def test_loop_that_is_left_early_ends_as_cancelled(recorder: Recorder) -> None:
    for element in bar(range(100)):
        work(recorder)
        if element == 3:
            break
    root = get_only(recorder).root
    assert (root.status, root.message) == (progress.Status.CANCELLED, "stopped before the end")


def test_exception_in_the_block_of_a_bar_fails(recorder: Recorder) -> None:
    def fail() -> None:
        with bar(range(100)) as shown:
            for _ in shown:
                work(recorder)
                raise ValueError("wrong row")

    with pytest.raises(ValueError, match="wrong row"):
        fail()
    root = get_only(recorder).root
    assert root.status is progress.Status.FAILED
    assert root.error is not None
    assert root.error.message == "wrong row"


def test_exception_of_the_iterable_fails(recorder: Recorder) -> None:
    def generate() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    def loop() -> None:
        for _ in bar(generate()):
            work(recorder)

    with pytest.raises(OSError, match="disk"):
        loop()
    assert get_only(recorder).root.status is progress.Status.FAILED


def test_keyboard_interrupt_cancels(recorder: Recorder) -> None:
    def loop() -> None:
        with bar(total=3):
            work(recorder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert get_only(recorder).root.status is progress.Status.CANCELLED


def test_bar_that_completes_in_an_exception_handler_does_not_fail(recorder: Recorder) -> None:
    try:
        raise ValueError("earlier")
    except ValueError:
        for _ in bar(range(3)):
            work(recorder)
    assert get_only(recorder).root.status is progress.Status.COMPLETED


def test_closed_before_the_total_is_cancelled(recorder: Recorder) -> None:
    shown = bar(total=10)
    shown.update(3)
    work(recorder)
    shown.close()
    assert get_only(recorder).root.status is progress.Status.CANCELLED


def test_unknown_total_completes(recorder: Recorder) -> None:
    shown = bar()
    shown.update(3)
    work(recorder)
    shown.close()
    assert (get_only(recorder).root.status, get_only(recorder).root.current) == (progress.Status.COMPLETED, 3)


@pytest.mark.parametrize(("units", "status"), [(10, "completed"), (4, "cancelled")])
def test_collected_bar_ends(recorder: Recorder, units: int, status: str) -> None:
    shown = bar(total=10)
    shown.update(units)
    work(recorder)
    shown.itself = shown  # a cycle, so that only the garbage collector finds it
    del shown
    gc.collect()
    recorder.tick()
    assert get_only(recorder).root.status.value == status


def test_bar_closed_in_another_thread_ends(recorder: Recorder) -> None:
    shown = bar(total=2)
    shown.update(2)
    work(recorder)
    thread = threading.Thread(target=shown.close)
    thread.start()
    thread.join()
    assert get_only(recorder).root.status is progress.Status.COMPLETED


def test_bar_that_outlives_its_operation_ends_with_it(recorder: Recorder) -> None:
    with progress.operation("job", id="job"):
        shown = bar(total=10)
        work(recorder)
    work(recorder)
    assert get_level(recorder).status.finished
    shown.update(5)
    shown.close()
    assert len(list_operations(recorder)) == 1


# --- disabled bars -------------------------------------------------------------------------------


@pytest.mark.parametrize("disable", [True, None])
def test_disabled_loop_is_counted(recorder: Recorder, disable: bool | None) -> None:
    shown = bar(range(10), desc="rows", unit="row", disable=disable)
    for element in shown:
        if element == 5:
            work(recorder)
            assert get_only(recorder).root.current == 5
    root = get_only(recorder).root
    assert shown.n == 0
    assert (root.current, root.total, root.info.name, root.info.unit) == (10, 10, "rows", "row")
    assert root.status is progress.Status.COMPLETED


def test_disabled_updates_are_counted(recorder: Recorder) -> None:
    with bar(total=20, disable=True, initial=3) as shown:
        shown.update()
        shown.update(2.5)
        shown.update(n=4)
        work(recorder)
        assert get_only(recorder).root.current == 10.5
        shown.update(-0.5)
        for invalid in ("text", None, math.nan, math.inf):
            assert shown.update(invalid) is None
        shown.update(10)
    root = get_only(recorder).root
    assert (root.current, root.status, shown.n) == (20, progress.Status.COMPLETED, 3)


def test_disabled_loop_that_fails_or_is_left_ends(recorder: Recorder) -> None:
    for _ in bar(range(10), disable=True):
        work(recorder)
        break

    def generate() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    def loop() -> None:
        for _ in bar(generate(), disable=True):
            work(recorder)

    with pytest.raises(OSError, match="disk"):
        loop()
    assert [one.root.status.value for one in list_operations(recorder)] == ["cancelled", "failed"]


def test_disabled_bar_can_be_reset(recorder: Recorder) -> None:
    with bar(total=4, disable=True) as shown:
        shown.update(4)
        work(recorder)
        shown.reset(total=2)
        shown.update(1)
        work(recorder)
        assert (get_only(recorder).root.current, get_only(recorder).root.total) == (1, 2)
        shown.update(1)


def test_assigned_count_of_a_disabled_bar_is_read(recorder: Recorder) -> None:
    with bar(total=40, disable=True, initial=5) as shown:
        shown.n = 30
        shown.refresh()
        work(recorder)
        assert get_only(recorder).root.current == 30
        shown.reset()
        shown.update(7)
        work(recorder)
        assert get_only(recorder).root.current == 7
        shown.n = 40
    assert get_only(recorder).root.status is progress.Status.COMPLETED


class StoringBar(tqdm):  # type: ignore[misc]
    """Bar that chooses what is pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "total": 9}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize(("kind", "total"), [(tqdm, 4), (StoringBar, 9)])
def test_copy_of_a_disabled_bar_is_a_bar_of_its_own(
    recorder: Recorder, duplicate: Callable[[Any], Any], kind: Any, total: int
) -> None:
    with kind(total=4, disable=True) as shown:
        shown.update(1)
        copied = duplicate(shown)
        copied.update(3)
        assert (type(copied), copied.total) == (kind, total)
        assert "update" not in vars(copied)
        assert "__getstate__" not in vars(copied)
        work(recorder)
        assert get_only(recorder).root.current == 1
        shown.update(3)


def test_disabled_bar_is_not_kept_alive(recorder: Recorder) -> None:
    shown = bar(total=4, disable=True)
    shown.update(4)
    work(recorder)
    del shown
    recorder.tick()
    assert get_only(recorder).root.status is progress.Status.COMPLETED


# --- other classes and functions of tqdm ---------------------------------------------------------


def test_bar_of_auto_is_recorded(recorder: Recorder) -> None:
    for _ in auto.tqdm(range(3), file=io.StringIO(), desc="auto"):
        work(recorder)
    assert get_only(recorder).root.status is progress.Status.COMPLETED


def test_async_loop_is_recorded_and_nests(recorder: Recorder) -> None:
    async def generate() -> Any:
        for number in range(3):
            yield number

    async def loop() -> None:
        async for _ in tqdm_asyncio.tqdm(generate(), total=3, desc="async", file=io.StringIO()):
            for _ in bar(range(1), desc="inner"):
                work(recorder)

    asyncio.run(loop())
    operation = get_only(recorder)
    assert (operation.root.info.name, operation.root.current) == ("async", 3)
    assert operation.root.status is progress.Status.COMPLETED
    assert [level.info.name for level in operation.levels] == ["inner"] * 3


def make_async_bar(iterable: Any, **keywords: Any) -> Any:
    """Return a bar for async loops that draws on a text in memory."""
    return tqdm_asyncio.tqdm(iterable, file=io.StringIO(), **keywords)


def make_async_drop_in(iterable: Any, **keywords: Any) -> Any:
    """Return a bar of the drop-in for async loops that draws on a text in memory."""
    return drop_in_asyncio.tqdm(iterable, file=io.StringIO(), **keywords)


async def generate_numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number
        await asyncio.sleep(0)


@pytest.mark.parametrize("make_bar", [make_async_bar, make_async_drop_in])
def test_async_loops_of_concurrent_tasks_are_siblings(
    make_bar: Callable[..., Any], recorder: Recorder
) -> None:
    async def consume(shown: Any) -> None:
        async for _ in shown:
            work(recorder)

    async def run() -> None:
        await asyncio.gather(*(consume(make_bar(generate_numbers(), total=3)) for _ in range(2)))

    asyncio.run(run())
    assert [one.root.status.value for one in list_operations(recorder)] == ["completed"] * 2
    assert [len(one.levels) for one in list_operations(recorder)] == [0, 0]


@pytest.mark.parametrize("make_bar", [make_async_bar, make_async_drop_in])
def test_bar_between_an_async_bar_and_its_loop_is_a_sibling(
    make_bar: Callable[..., Any], recorder: Recorder
) -> None:
    async def run() -> None:
        shown = make_bar(generate_numbers(), total=3, desc="async")
        for _ in bar(range(2), desc="sync"):
            work(recorder)
        async for _ in shown:
            work(recorder)

    asyncio.run(run())
    assert sorted(one.root.info.name for one in list_operations(recorder)) == ["async", "sync"]


@pytest.mark.parametrize("make_bar", [make_async_bar, make_async_drop_in])
def test_async_loop_over_a_sync_iterable_nests(make_bar: Callable[..., Any], recorder: Recorder) -> None:
    async def run() -> None:
        async for _ in make_bar(range(2), desc="async"):
            for _ in progress.track(range(1), "inner"):
                work(recorder)

    asyncio.run(run())
    operation = get_only(recorder)
    assert (operation.root.info.name, len(operation.levels)) == ("async", 2)


def test_disabled_async_loop_is_counted(recorder: Recorder) -> None:
    async def loop() -> None:
        async for _ in tqdm_asyncio.tqdm(range(3), desc="async", disable=True):
            work(recorder)

    asyncio.run(loop())
    gc.collect()
    recorder.tick()
    assert (get_only(recorder).root.current, get_only(recorder).root.status.value) == (3, "completed")


@pytest.mark.parametrize("disable", [False, True])
def test_gather_is_recorded(recorder: Recorder, disable: bool) -> None:
    async def step() -> None:
        work(recorder)

    async def run() -> None:
        await tqdm_asyncio.tqdm.gather(*(step() for _ in range(4)), file=io.StringIO(), disable=disable)

    asyncio.run(run())
    root = get_only(recorder).root
    assert (root.current, root.total, root.status) == (4, 4, progress.Status.COMPLETED)


def test_thread_map_is_recorded(recorder: Recorder) -> None:
    lock = threading.Lock()

    def step(_: int) -> None:
        with lock:
            work(recorder)

    concurrent.thread_map(step, range(5), max_workers=2, file=io.StringIO())
    root = get_only(recorder).root
    assert (root.current, root.total, root.status) == (5, 5, progress.Status.COMPLETED)


def test_write_works_between_bars(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in bar(range(2)):
        work(recorder)
        tqdm.write("line")
    assert capsys.readouterr().out == "line\nline\n"


# --- bars that the program does not close --------------------------------------------------------


@pytest.mark.parametrize("disable", [False, True])
def test_open_bar_at_its_total_completes_with_its_operation(disable: bool, recorder: Recorder) -> None:
    with progress.operation("job", id="job"):
        shown = bar(total=4, desc="rows", disable=disable)
        work(recorder)
        for _ in range(4):
            shown.update()
    level = get_level(recorder)
    assert (level.status, level.current, level.message) == (progress.Status.COMPLETED, 4, None)


def test_open_bar_below_its_total_is_cancelled_with_its_operation(recorder: Recorder) -> None:
    with progress.operation("job", id="job"):
        shown = bar(total=4, desc="rows")
        work(recorder)
        shown.update(3)
    level = get_level(recorder)
    assert (level.status, level.current) == (progress.Status.CANCELLED, 3)
    assert level.message == "ended with its parent"


def test_open_bar_at_its_total_completes_in_a_failed_operation(recorder: Recorder) -> None:
    operation = progress.operation("job", id="job").start()
    with operation:
        shown = bar(total=4, desc="rows")
        work(recorder)
        shown.update(4)
        operation.fail("a later step")
    assert get_level(recorder).status is progress.Status.COMPLETED


def test_open_bar_in_a_loop_over_a_bar_completes(recorder: Recorder) -> None:
    for _ in bar(range(2), desc="outer"):
        shown = bar(total=4, desc="inner")
        work(recorder)
        shown.update(4)
    assert [level.status.value for level in get_only(recorder).levels] == ["completed"] * 2


# --- bounds --------------------------------------------------------------------------------------


def test_many_bars_are_bounded_and_leave_nothing(recorder: Recorder) -> None:
    open_bars = [bar(total=1, disable=True) for _ in range(2 * bars.MAX_BARS)]
    assert len(integration._recorder._records) == bars.MAX_BARS
    for shown in open_bars:
        shown.close()
    for _ in range(2_000):
        for _ in tqdm((1,), disable=True):
            pass
    assert not integration._records
    recorder.tick()
    assert list_operations(recorder) == []


def test_uninstrument_restores_tqdm(recorder: Recorder) -> None:
    integration.uninstrument()
    for name in integration._WRAPPERS:
        assert not hasattr(vars(tqdm)[name], "__wrapped__") or name == "__init__"
    shown = bar(total=3)
    work(recorder)
    shown.close()
    assert list_operations(recorder) == []
    progress.instrument_tqdm()


# --- processes -----------------------------------------------------------------------------------


@needs_fork
def test_forked_child_ignores_bars_of_its_parent_and_records_its_own(recorder: Recorder) -> None:
    outer = bar(total=10, desc="parent")
    work(recorder)

    def child() -> None:
        outer.update(5)
        outer.close()
        for _ in bar(range(2), desc="child"):
            work(recorder)
        assert [one.root.info.name for one in recorder.runtime.get_history()] == ["child"]

    for _ in bar(range(1)):
        assert run_in_child(child) == 0
    outer.close()


@pytest.mark.process
def test_process_map_is_one_operation() -> None:
    program = """
    import time
    import otel_progress as progress
    from tqdm.contrib.concurrent import process_map

    def step(number):
        time.sleep(0.3)
        return number

    if __name__ == "__main__":
        runtime = progress.configure(store="memory:", console=False, otlp=False)
        progress.instrument_tqdm()
        assert process_map(step, range(10), max_workers=2) == list(range(10))
        (operation,) = progress.get_history()
        print(operation.root.current, operation.root.total, operation.root.status.value)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "10 10 completed\n"
    assert "100%" in done.stderr


def test_import_error_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.std", None)
    monkeypatch.delitem(sys.modules, "otel_progress.integrations.tqdm")
    with pytest.raises(ImportError, match="pip install tqdm"):
        progress.instrument_tqdm()


def test_import_of_the_package_does_not_import_tqdm() -> None:
    program = "import sys, otel_progress; otel_progress.instrument_tqdm; assert 'tqdm' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("name", ["tqdm", "rich", "alive-progress"])
def test_instrumentor_is_an_entry_point_that_activates_the_integration(name: str) -> None:
    pytest.importorskip("opentelemetry.instrumentation", reason="instrumentors need its base class")
    module = importlib.import_module(f"otel_progress.integrations.{name.replace('-', '_')}")
    integration.uninstrument()
    (point,) = entry_points(group="opentelemetry_instrumentor", name=f"progress-{name}")
    instrumentor = point.load()()
    instrumentor.instrument()
    assert all(patch.is_active for patch in module._patches)
    instrumentor.uninstrument()
    assert not any(patch.is_active for patch in module._patches)
    progress.instrument_tqdm()


FILES = frozenset({"bars.py", "tqdm.py", "late_levels.py", "pollers.py"})
"""Files whose places are interrupted."""


def _use_bars(recorder: Recorder) -> None:
    """Open, read and end bars."""
    for _ in bar(range(2), desc="loop"):
        recorder.tick()
    with bar(total=2, disable=True) as shown:
        shown.update(2)
        recorder.tick()


@pytest.mark.parametrize("event", ["line", pytest.param("opcode", marks=pytest.mark.slow)])
@pytest.mark.parametrize("handler", ["bars", "tick", "end"])
def test_call_that_interrupts_any_place_loses_nothing(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch, handler: str, event: str
) -> None:
    """A signal handler, or the garbage collector, runs between two bytecodes."""
    monkeypatch.setattr(bars, "MIN_AGE_S", 0.0)
    left_open = [bar(total=1, desc="left open") for _ in range(300 if handler == "end" else 3)]
    acts = {
        "bars": lambda: _use_bars(lenient),
        "tick": lenient.tick,
        "end": lambda: left_open and left_open.pop().close(),
    }
    interrupter = Interrupter(acts[handler], event=event, files=FILES)
    with fail_on_deadlock():
        interrupter.run(lambda: _use_bars(lenient))
    assert interrupter.calls > 50
    assert interrupter.errors == []
    while left_open:
        left_open.pop().close()
    lenient.tick()
    assert not lenient.runtime.get_active_operations()
    assert not integration._recorder.is_active
    assert not internal_error_counts


@pytest.mark.parametrize("event", ["line", pytest.param("opcode", marks=pytest.mark.slow)])
def test_exception_at_any_place_reaches_the_caller_and_leaves_nothing_running(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """A signal handler raises KeyboardInterrupt between two bytecodes of this package."""
    monkeypatch.setattr(bars, "MIN_AGE_S", 0.0)
    # Why: an exception in `tqdm.__del__` never reaches a caller.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    places = 0
    for place in range(1, 3000, 3 if event == "line" else 5):
        raiser = Raiser(place, KeyboardInterrupt(), event=event, files=FILES)
        try:
            raiser.run(lambda: _use_bars(lenient))
        except KeyboardInterrupt:
            places += 1
        if not raiser.has_raised:
            break
    gc.collect()
    lenient.tick()
    assert places > 50
    assert not lenient.runtime.get_active_operations()
