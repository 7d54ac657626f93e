"""Tests of the test kit: clock, ids, recorder and span trees."""

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


def test_fake_clock_advances_and_steps() -> None:
    """Both clocks advance together, and the wall clock can be stepped alone."""
    clock = FakeClock()
    assert (clock.wall(), clock.monotonic()) == (WALL, MONOTONIC)
    clock.advance(2.5)
    clock.step_wall(-3600.0)
    assert (clock.wall(), clock.monotonic()) == (WALL - 3597.5, MONOTONIC + 2.5)
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="step_wall"):
            clock.advance(seconds)


def test_recording_of_same_work_has_same_ids() -> None:
    """Run, trace and span ids are repeatable."""
    recordings = []
    for _ in range(2):
        with recording() as recorder:
            with progress.operation("o") as op, op.level("x"):
                pass
            spans = [
                (span.name, span.get_span_context().trace_id, span.get_span_context().span_id)
                for span in recorder.spans()
            ]
            recordings.append((op.operation_id, op.snapshot().info.run, spans))
    assert recordings[0] == recordings[1]
    assert recordings[0][2] == [("x", 1, 2), ("o", 1, 1)]
    ids = CountingIds()
    assert [ids.run_id(), ids.run_id()] == ["0000000100000001", "0000000200000002"]


def test_recorder_operation_with_unknown_id_raises(recorder: Recorder) -> None:
    """The message lists the known ids."""
    with pytest.raises(KeyError, match=r"expected one of: \(no operations\)"):
        recorder.operation("o")
    with progress.operation("o", id="running"), pytest.raises(KeyError, match="expected one of: running"):
        recorder.operation("o")


def test_span_trees_of_several_traces_are_ordered(recorder: Recorder) -> None:
    """Roots are in the order of their starts. ``leave_out`` hides attributes."""
    for name in ("a", "b"):
        with progress.operation(name) as op, op.level("x"), progress.level("y"):
            pass
    assert [(tree["name"], tree["children"][0]["children"][0]["name"]) for tree in recorder.span_trees()] == [
        ("a", "y"),
        ("b", "y"),
    ]
    children = span_trees([span for span in recorder.spans() if span.name == "y"], leave_out=())
    assert [tree["name"] for tree in children] == ["y", "y"]
    assert "progress.sequence" in children[0]["attributes"]
    assert "progress.sequence" not in recorder.span_trees()[0]["attributes"]


def test_recording_after_an_error_shuts_down() -> None:
    """A test that fails in the block leaves no active configuration."""
    with pytest.raises(ZeroDivisionError), recording():
        raise ZeroDivisionError
    assert config.current_runtime() is None


def test_wait_until_after_timeout_raises() -> None:
    """A condition that stays false raises TimeoutError."""
    wait_until(lambda: True)
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        wait_until(lambda: False, 0.01)


def test_recording_ignores_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the machine that runs the tests have no effect."""
    monkeypatch.setenv("OTEL_PROGRESS_ENABLED", "false")
    monkeypatch.setenv("OTEL_PROGRESS_PROMETHEUS_PORT", "nonsense")
    with recording(tick=0.5) as recorder, progress.operation("o") as op:
        assert op.recording
        assert recorder.runtime.settings.tick == 0.5
