"""Tests of failures from exceptions: details, their bounds, and their cost."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.instrument import failures
from otel_progress.instrument.failures import MAX_TRACEBACK_FRAMES, format_traceback
from otel_progress.testing import Recorder


def nest(depth: int, leave: Callable[[int], None] | None = None) -> None:
    """Raise ValueError in the innermost of nested levels. ``leave`` may replace it."""
    with progress.level("l"):
        if depth == 0:
            raise ValueError("row 7")
        try:
            nest(depth - 1, leave)
        except Exception:
            if leave is None:
                raise
            leave(depth)


def wrap(depth: int) -> None:
    """Replace the current exception by one that has it as its context."""
    raise ValueError(f"level {depth}")


def fail(recorder: Recorder, depth: int, leave: Callable[[int], None] | None = None) -> list[Any]:
    """Return the errors of nested levels, the operation first."""

    def run() -> None:
        with progress.operation("job", id="j"):
            nest(depth, leave)

    with pytest.raises(ValueError, match=r"row 7|level"):
        run()
    operation = recorder.operation("j")
    return [level.error for level in (operation.root, *operation.levels)]


def test_details_are_those_of_the_standard_library(recorder: Recorder) -> None:
    """With the last frames of the traceback of each level."""
    expected = []

    def work(depth: int) -> None:
        with progress.level("l"):
            try:
                if depth == 0:
                    raise ValueError("row 7") from KeyError("k")
                work(depth - 1)
            except ValueError as error:
                lines = traceback.format_exception(error, limit=-MAX_TRACEBACK_FRAMES)
                expected.append("".join(lines))
                raise

    with pytest.raises(ValueError, match="row 7"), progress.operation("job", id="j"):
        work(20)
    found = [level.error.details for level in recorder.operation("j").levels]  # type: ignore[union-attr]
    for details, text in zip(reversed(found[5:]), expected, strict=False):
        assert details is not None
        assert details.splitlines()[-1] == text.splitlines()[-1] == "ValueError: row 7"
        assert details.splitlines()[:4] == text.splitlines()[:4]
    assert found[0] == expected[-1]


def test_note_added_between_levels_is_in_details_of_outer_level(recorder: Recorder) -> None:
    """The details of the inner level are not reused."""
    if not hasattr(BaseException, "add_note"):
        pytest.skip("Python 3.10 has no notes")

    def add_note(depth: int) -> None:
        import sys

        error = sys.exc_info()[1]
        assert error is not None
        if depth == 3:
            error.add_note("while loading")
        raise error

    errors = fail(recorder, 30, add_note)
    noted = ["while loading" in error.details for error in errors]
    assert noted == [depth >= 3 for depth in range(31, -1, -1)]


def test_error_of_operation_with_many_levels_is_formatted_once(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only levels near the error have fewer frames than the limit."""
    made = []

    class Counted(traceback.TracebackException):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            made.append(1)
            super().__init__(*arguments, **keywords)

    # Why not in the module itself: other code, such as a log handler, formats tracebacks as well.
    counting = SimpleNamespace(TracebackException=Counted, format_tb=traceback.format_tb)
    monkeypatch.setattr(failures, "traceback", counting)
    errors = fail(recorder, 120)
    assert 1 <= len(made) <= 2 * MAX_TRACEBACK_FRAMES
    assert len({error.details for error in errors[:100]}) == 1
    assert errors[0].details.count("in nest") <= MAX_TRACEBACK_FRAMES


@pytest.mark.parametrize("leave", [None, wrap], ids=["same", "chain"])
def test_cost_of_exception_grows_with_number_of_levels(
    recorder: Recorder, leave: Callable[[int], None] | None
) -> None:
    """Sixteen times the levels cost about sixteen times as much, not 256 times."""

    def measure(depth: int) -> float:
        start = time.thread_time()
        fail(recorder, depth, leave)
        return (time.thread_time() - start) / depth

    measure(10)
    shallow = min(measure(10) for _ in range(3))
    assert measure(160) < 6 * shallow


def test_chain_of_exceptions_is_bounded(recorder: Recorder) -> None:
    """The details end with the newest exceptions, also on the span."""
    errors = fail(recorder, 60, wrap)
    details = errors[0].details
    assert len(details) <= 8192
    assert details.rstrip().endswith("ValueError: level 60")
    assert 2 <= details.count("During handling of the above exception") <= 8
    (span,) = [one for one in recorder.spans() if (one.attributes or {}).get("progress.path") == "l:1"]
    (event,) = [one for one in span.events if one.name == "exception"]
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "level 60"
    assert len(str(event.attributes["exception.stacktrace"])) <= 8192


class UnprintableError(Exception):
    """Error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError


def test_traceback_of_unprintable_error_is_returned() -> None:
    """The standard library replaces its text."""
    details = format_traceback(UnprintableError())
    assert details is not None
    assert "UnprintableError" in details


def test_traceback_of_chain_with_cycle_is_bounded() -> None:
    """A program may set a cause that is its own effect."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    details = format_traceback(first)
    assert details is not None
    assert details.count("ValueError: a") <= failures.MAX_CHAIN_EXCEPTIONS
