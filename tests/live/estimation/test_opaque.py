"""Tests of the estimate of an operation with an opaque step."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress import Level, Stages
from otel_progress.testing import Recorder

STAGES = Stages(count=0.8, wait=0.2)


def start_run(recorder: Recorder, number: int) -> Level:
    """Start a run: ten seconds of steps, then one opaque step."""
    op = progress.operation("job", id=f"job-{number}", stages=STAGES).start()
    with op.stage("count") as stage:
        stage.set_total(1_000)
        for _ in range(1_000):
            recorder.clock.advance(0.01)
            stage.increment()
            recorder.tick()
    return op


def complete_past_runs(recorder: Recorder) -> None:
    """Complete three runs whose opaque step takes thirty seconds."""
    for number in range(3):
        op = start_run(recorder, number)
        with op.stage("wait").opaque():
            for _ in range(30):
                recorder.clock.advance(1.0)
                recorder.tick()
        op.complete()
        recorder.tick()


def test_estimate_during_an_opaque_step_counts_down(recorder: Recorder) -> None:
    """It never stops before the expected end."""
    complete_past_runs(recorder)
    op = start_run(recorder, 3)
    left = []
    with op.stage("wait").opaque():
        for _ in range(28):
            recorder.clock.advance(1.0)
            recorder.tick()
            eta = op.eta
            assert eta is not None
            assert eta.remaining_s is not None
            left.append(eta.remaining_s)
    assert left == pytest.approx([30.0 - second for second in range(1, 29)], abs=2.0)
    op.complete()


def test_estimate_of_a_hanging_opaque_step_is_stalled(recorder: Recorder) -> None:
    """After three times the expected duration, only a lower bound remains."""
    complete_past_runs(recorder)
    op = start_run(recorder, 3)
    with op.stage("wait").opaque():
        recorder.tick()
        recorder.clock.advance(95.0)
        recorder.tick()
        eta = op.eta
    assert eta is not None
    assert (eta.state, eta.remaining_s) == ("stalled", None)
    op.complete()


def test_estimate_of_an_only_opaque_step_is_what_the_caller_expects(recorder: Recorder) -> None:
    """Past runs do not matter."""
    for _ in range(3):
        with progress.operation("job") as op:
            for _ in range(10):
                recorder.clock.advance(1.0)
                recorder.tick()
    op = progress.operation("job", id="long").start()
    with op.opaque(expected=750.0):
        for _ in range(75):
            recorder.clock.advance(1.0)
            recorder.tick()
        shown = op.snapshot()
        assert shown.ratio == pytest.approx(0.1, abs=0.001)
        assert op.eta is not None
        assert (op.eta.state, op.eta.basis) == ("estimated", "expected")
        assert op.eta.remaining_s == pytest.approx(675.0)
    op.complete()
