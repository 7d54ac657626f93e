"""Bars of alive-progress, recorded without changes to the code that shows them."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.instrument.pollers import has_active_poller
from otel_progress.integrations import alive_progress as integration
from otel_progress.operations import OperationSnapshot
from otel_progress.testing import Recorder

alive_progress = pytest.importorskip("alive_progress", reason="tests of the integration with alive-progress")


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    integration.instrument()
    yield
    integration.uninstrument()
    gc.collect()
    assert not has_active_poller()


def show_bar(*arguments: Any, **options: Any) -> Any:
    """Return a bar that draws on a text in memory."""
    return alive_progress.alive_bar(*arguments, file=io.StringIO(), **options)


def work(recorder: Recorder, seconds: float = 2.0) -> None:
    """Let the time pass, and tick."""
    recorder.clock.advance(seconds)
    recorder.tick()


def get_only(recorder: Recorder) -> OperationSnapshot:
    """Return the only operation, with its levels."""
    runtime = recorder.runtime
    (operation,) = [*runtime.get_history(), *runtime.get_active_operations()]
    return recorder.operation(operation.operation_id)


def test_bar_is_an_operation_and_an_inner_bar_a_level(recorder: Recorder) -> None:
    with show_bar(4, title="outer") as outer:
        outer(3)
        with show_bar(None, title="inner", disable=True) as inner:
            inner(7)
            work(recorder)
        outer()
    operation = get_only(recorder)
    root, (level,) = operation.root, operation.levels
    assert (root.info.type, root.info.name, root.current, root.total) == ("alive_progress", "outer", 4, 4)
    assert (level.info.name, level.current, level.total) == ("inner", 7, None)
    assert {root.status, level.status} == {progress.Status.COMPLETED}


def test_exception_fails(recorder: Recorder) -> None:
    def fail() -> None:
        with show_bar(4):
            work(recorder)
            raise ValueError("wrong row")

    with pytest.raises(ValueError, match="wrong row"):
        fail()
    assert get_only(recorder).root.status is progress.Status.FAILED


def test_bar_below_its_total_is_cancelled(recorder: Recorder) -> None:
    with show_bar(4) as bar:
        bar()
        work(recorder)
    assert get_only(recorder).root.status is progress.Status.CANCELLED


def test_manual_bar_has_the_total_one(recorder: Recorder) -> None:
    with show_bar(manual=True) as bar:
        bar(0.25)
        work(recorder)
        assert (get_only(recorder).root.current, get_only(recorder).root.total) == (0.25, 1)
        bar(1.0)
    assert get_only(recorder).root.status is progress.Status.COMPLETED


def test_alive_it_is_recorded(recorder: Recorder) -> None:
    for _ in alive_progress.alive_it(range(3), file=io.StringIO(), disable=True):
        work(recorder)
    assert (get_only(recorder).root.current, get_only(recorder).root.status.value) == (3, "completed")


def test_uninstrument_restores_the_function(recorder: Recorder) -> None:
    integration.uninstrument()
    with show_bar(4) as bar:
        bar(4)
        work(recorder)
    assert recorder.runtime.get_history() == []
