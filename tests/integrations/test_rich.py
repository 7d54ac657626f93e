"""Tasks of rich's displays, recorded without changes to the code."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress, track

import otel_progress as progress
from otel_progress.instrument import pollers
from otel_progress.instrument.pollers import has_active_poller
from otel_progress.integrations import rich as integration
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    integration.instrument()
    yield
    integration.uninstrument()
    gc.collect()
    assert not has_active_poller()


def make_display(**options: Any) -> Progress:
    """Return a display that draws on a text in memory, from this thread only."""
    return Progress(console=make_console(), auto_refresh=False, **options)


def make_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80)


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
        for one in sorted(found, key=lambda one: (one.root.info.started_at or 0, one.root.info.name or ""))
    ]


def get_only(recorder: Recorder) -> OperationSnapshot:
    """Return the only operation."""
    (operation,) = list_operations(recorder)
    return operation


def test_task_is_an_operation(recorder: Recorder) -> None:
    with make_display() as display:
        task = display.add_task("[bold red]rows[/] of a file", total=10, completed=2, filename="a.csv")
        display.advance(task, 3)
        work(recorder)
        root = get_only(recorder).root
        assert (root.info.type, root.info.name) == ("rich", "rows of a file")
        assert (root.current, root.total, root.resumed_from) == (5, 10, 2)
        assert dict(root.metadata) == {"filename": "a.csv"}
        display.update(task, description="more [rows", total=20, filename="b.csv")
        work(recorder)
        root = get_only(recorder).root
        assert (root.message, root.total, dict(root.metadata)) == ("more [rows", 20, {"filename": "b.csv"})
        display.update(task, completed=20)
        work(recorder)
        assert get_only(recorder).root.status is progress.Status.COMPLETED


def test_tasks_in_an_operation_are_levels_below_it(recorder: Recorder) -> None:
    with progress.operation("job", id="job"), make_display() as display:
        first, second = display.add_task("first", total=2), display.add_task("second", total=None)
        work(recorder)
        display.advance(first, 2)
        display.advance(second, 7)
    levels = recorder.operation("job").levels
    assert [(level.info.name, level.current, level.status.value) for level in levels] == [
        ("first", 2, "completed"),
        ("second", 7, "completed"),
    ]


def test_track_of_rich_is_recorded(recorder: Recorder) -> None:
    for element in track(range(5), "rows", console=make_console(), auto_refresh=False):
        if element == 2:
            work(recorder)
    root = get_only(recorder).root
    assert (root.current, root.total, root.status) == (5, 5, progress.Status.COMPLETED)


def test_task_in_a_track_loop_is_below_it(recorder: Recorder) -> None:
    for _ in progress.track(range(2), name="files"):
        with make_display() as display:
            display.add_task("rows", total=2)
            work(recorder)
    operation = recorder.operation(get_only(recorder).operation_id)
    assert (operation.root.info.name, operation.root.current) == ("files", 2)
    assert [level.info.name for level in operation.levels] == ["rows", "rows"]


@pytest.mark.parametrize("first", ["tqdm", "rich"])
def test_task_in_a_loop_over_a_bar_of_tqdm_is_below_it(
    first: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    std = pytest.importorskip("tqdm.std", reason="bars of another library")
    tqdm_integration = pytest.importorskip("otel_progress.integrations.tqdm", reason="bars of tqdm")
    recorders = {"rich": integration._recorder, "tqdm": tqdm_integration._recorder}
    # The ticker polls the libraries in the order of their first bars.
    order = sorted(recorders, key=lambda name: name != first)
    monkeypatch.setattr(pollers._pollers, "registered", tuple(recorders[name] for name in order))
    progress.instrument_tqdm()
    try:
        for _ in std.tqdm(range(2), desc="outer", file=io.StringIO()):
            with make_display() as display:
                display.add_task("inner", total=1)
                work(recorder)
    finally:
        tqdm_integration.uninstrument()
    operation = get_only(recorder)
    assert operation.root.info.name == "outer"
    assert [level.info.name for level in operation.levels] == ["inner"] * 2


def test_track_that_is_left_early_is_cancelled(recorder: Recorder) -> None:
    for _ in track(range(5), "rows", console=make_console(), auto_refresh=False):
        work(recorder)
        break
    gc.collect()
    assert get_only(recorder).root.status is progress.Status.CANCELLED


@pytest.mark.parametrize("rows", [range(4), (row for row in range(4))])
def test_disabled_track_of_rich_is_counted(recorder: Recorder, rows: Iterable[int]) -> None:
    for number in track(rows, description="rows", console=make_console(), disable=True):
        work(recorder)
        assert get_only(recorder).root.current == number
    root = get_only(recorder).root
    assert (root.info.name, root.current) == ("rows", 4)
    assert root.status is progress.Status.COMPLETED


def test_disabled_track_that_is_left_early_is_cancelled(recorder: Recorder) -> None:
    for number in track(range(4), console=make_console(), disable=True):
        work(recorder)
        if number == 2:
            break
    root = get_only(recorder).root
    assert (root.status, root.current) == (progress.Status.CANCELLED, 2)


def test_track_of_a_display_that_is_not_started_is_counted(recorder: Recorder) -> None:
    display = Progress(console=make_console())
    task = display.add_task("rows", total=9)
    for _ in display.track(range(5), total=7, completed=2, task_id=task):
        work(recorder)
    work(recorder)
    root = get_only(recorder).root
    assert (root.status, root.current, root.total) == (progress.Status.COMPLETED, 7, 7)


def test_invalid_arguments_of_track_raise_the_error_of_rich(recorder: Recorder) -> None:
    assert recorder.runtime is not None
    with pytest.raises(TypeError, match="unexpected"):
        list(Progress(disable=True).track([1], wrong=2))  # type: ignore[call-arg]


def test_exception_in_the_block_fails(recorder: Recorder) -> None:
    def fail() -> None:
        with make_display() as display:
            display.add_task("rows", total=10)
            work(recorder)
            raise ValueError("wrong row")

    with pytest.raises(ValueError, match="wrong row"):
        fail()
    root = get_only(recorder).root
    assert root.status is progress.Status.FAILED
    assert root.error is not None
    assert root.error.message == "wrong row"


def test_task_shorter_than_a_second_leaves_nothing(recorder: Recorder) -> None:
    with make_display() as display:
        for number in range(20):
            task = display.add_task(str(number), total=1)
            work(recorder, 0.1)
            display.advance(task)
            work(recorder, 0.1)
            display.remove_task(task)
    assert list_operations(recorder) == []


def test_task_that_has_not_started_is_not_recorded_yet(recorder: Recorder) -> None:
    with make_display() as display:
        task = display.add_task("later", start=False, total=10)
        work(recorder, 60.0)
        assert list_operations(recorder) == []
        display.start_task(task)
        work(recorder)
        work(recorder)
        root = get_only(recorder).root
        assert root.elapsed(recorder.clock.monotonic()) == pytest.approx(4.0)
        display.update(task, completed=10)


def test_removed_task_ends(recorder: Recorder) -> None:
    with make_display() as display:
        task = display.add_task("rows", total=10)
        work(recorder)
        display.remove_task(task)
        assert get_only(recorder).root.status is progress.Status.CANCELLED
        with pytest.raises(KeyError):
            display.remove_task(task)


def test_finished_task_that_is_reset_is_recorded_again(recorder: Recorder) -> None:
    with make_display() as display:
        task = display.add_task("epoch", total=2)
        for _ in range(2):
            display.reset(task)
            work(recorder)
            display.advance(task, 2)
            work(recorder)
    assert [one.root.status.value for one in list_operations(recorder)] == ["completed", "completed"]


def test_stopped_display_that_starts_again_is_recorded_again(recorder: Recorder) -> None:
    display = make_display()
    display.start()
    task = display.add_task("rows", total=2)
    work(recorder)
    display.stop()
    display.start()
    display.advance(task)
    work(recorder)
    display.advance(task)
    display.stop()
    assert [one.root.status.value for one in list_operations(recorder)] == ["cancelled", "completed"]


@pytest.mark.parametrize("disable", [False, True])
def test_display_that_is_never_started_ends_when_it_is_collected(recorder: Recorder, disable: bool) -> None:
    display = make_display(disable=disable)
    display.add_task("rows", total=10)
    work(recorder)
    assert get_only(recorder).root.status is progress.Status.RUNNING
    del display
    gc.collect()
    recorder.tick()
    assert get_only(recorder).root.status is progress.Status.CANCELLED
    assert not has_active_poller()


def test_thousands_of_tasks_are_bounded(recorder: Recorder) -> None:
    with make_display(disable=True) as display:
        for number in range(3000):
            display.add_task(str(number), total=10)
        work(recorder)
        assert len(recorder.runtime.get_active_operations()) == 1000
    assert not recorder.runtime.get_active_operations()


@pytest.mark.parametrize("completed", [-4, float("nan"), float("inf"), "text", None])
def test_invalid_count_is_ignored(recorder: Recorder, completed: Any) -> None:
    display = make_display(disable=True)
    task = display.add_task("rows", total=10, completed=3)
    work(recorder)
    display._tasks[task].completed = completed
    work(recorder)
    assert get_only(recorder).root.current == 3
    display.stop()


def test_console_of_the_package_is_not_recorded() -> None:
    with progress.configure(store="memory:", console=True, otlp=False) as runtime:
        with progress.operation("job", id="job"):
            pass
        assert [operation.operation_id for operation in runtime.get_history()] == ["job"]


def test_uninstrument_restores_rich(recorder: Recorder) -> None:
    integration.uninstrument()
    assert not any(hasattr(vars(Progress)[name], "__wrapped__") for name in integration._WRAPPERS)
    display = make_display(disable=True)
    display.add_task("rows")
    work(recorder)
    assert list_operations(recorder) == []
