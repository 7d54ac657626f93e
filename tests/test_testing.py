"""The testing kit: clocks, ids, recorder and forests that users' tests are written with."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress import config
from otel_progress.testing import (
    MONOTONIC,
    WALL,
    CountingIds,
    FakeClock,
    Recorder,
    recording,
    span_trees,
    wait_until,
)


def test_a_clock_moved_by_hand() -> None:
    """Both clocks advance together, and the wall clock can be set apart."""
    clock = FakeClock()
    assert (clock.wall(), clock.monotonic()) == (WALL, MONOTONIC)
    clock.advance(2.5)
    clock.step_wall(-3600.0)
    assert (clock.wall(), clock.monotonic()) == (WALL - 3597.5, MONOTONIC + 2.5)
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="step_wall"):
            clock.advance(seconds)


def test_ids_are_the_same_in_every_run() -> None:
    """Two recordings of the same work have the same ids."""
    seen = []
    for _ in range(2):
        with recording() as recorder:
            with progress.operation("o") as op, op.level("x"):
                pass
            spans = [
                (span.name, span.get_span_context().trace_id, span.get_span_context().span_id)
                for span in recorder.spans()
            ]
            seen.append((op.operation_id, op.snapshot().info.run, spans))
    assert seen[0] == seen[1]
    assert seen[0][2] == [("x", 1, 2), ("o", 1, 1)]
    ids = CountingIds()
    assert [ids.run_id(), ids.run_id()] == ["0000000100000001", "0000000200000002"]


def test_an_operation_that_is_not_there(recorder: Recorder) -> None:
    """Asking for one that does not exist says which there are."""
    with pytest.raises(KeyError, match="there are: none"):
        recorder.operation("o")
    with progress.operation("o", id="running"), pytest.raises(KeyError, match="there are: running"):
        recorder.operation("o")


def test_forests_of_several_traces(recorder: Recorder) -> None:
    """Roots stand beside each other in the order they began; what is left out can be chosen."""
    for name in ("a", "b"):
        with progress.operation(name) as op, op.level("x"), progress.level("y"):
            pass
    assert [(tree["name"], tree["children"][0]["children"][0]["name"]) for tree in recorder.span_trees()] == [
        ("a", "y"),
        ("b", "y"),
    ]
    below = span_trees([span for span in recorder.spans() if span.name == "y"], leave_out=())
    assert [tree["name"] for tree in below] == ["y", "y"]
    assert "progress.sequence" in below[0]["attributes"]
    assert "progress.sequence" not in recorder.span_trees()[0]["attributes"]


def test_after_an_error_nothing_is_left() -> None:
    """A test that fails inside of the block leaves no configuration behind."""
    with pytest.raises(ZeroDivisionError), recording():
        raise ZeroDivisionError
    assert config.current_runtime() is None


def test_waiting_has_an_end() -> None:
    """What does not come true is an error after the time given."""
    wait_until(lambda: True)
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        wait_until(lambda: False, 0.01)


def test_the_environment_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the machine that runs the tests change nothing."""
    monkeypatch.setenv("OTEL_PROGRESS_ENABLED", "false")
    monkeypatch.setenv("OTEL_PROGRESS_PROMETHEUS_PORT", "nonsense")
    with recording(tick=0.5) as recorder, progress.operation("o") as op:
        assert op.recording
        assert recorder.runtime.settings.tick == 0.5
