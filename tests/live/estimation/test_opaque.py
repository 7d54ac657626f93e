"""The estimate of an operation while one of its steps cannot report: it goes on counting down, and is stalled when the step must hang."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress import Level, Stages
from otel_progress.testing import Recorder

STAGES = Stages(count=0.8, wait=0.2)


def begun(recorder: Recorder, number: int) -> Level:
    """Begin a run of which a thousand steps take ten seconds, and the rest is one opaque step."""
    op = progress.operation("job", id=f"job-{number}", stages=STAGES).start()
    with op.stage("count") as stage:
        stage.set_total(1_000)
        for _ in range(1_000):
            recorder.clock.advance(0.01)
            stage.increment()
            recorder.tick()
    return op


def taught(recorder: Recorder) -> None:
    """Complete three runs whose opaque step takes thirty seconds."""
    for number in range(3):
        op = begun(recorder, number)
        with op.stage("wait").opaque():
            for _ in range(30):
                recorder.clock.advance(1.0)
                recorder.tick()
        op.complete()
        recorder.tick()


def test_it_counts_down_while_the_step_is_silent(recorder: Recorder) -> None:
    """Seconds that pass in an opaque step are seconds less to go: at no time does the estimate stand still before it should be over."""
    taught(recorder)
    op = begun(recorder, 3)
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


def test_it_is_stalled_when_the_step_must_hang(recorder: Recorder) -> None:
    """After three times what the step should take nothing is foretold but a least."""
    taught(recorder)
    op = begun(recorder, 3)
    with op.stage("wait").opaque():
        recorder.tick()
        recorder.clock.advance(95.0)
        recorder.tick()
        eta = op.eta
    assert eta is not None
    assert (eta.state, eta.remaining_s) == ("stalled", None)
    op.complete()


def test_what_is_expected_of_the_only_step_is_what_is_left(recorder: Recorder) -> None:
    """Where a step is all there is to an operation, bar and remaining time both follow what the caller expects, whatever past runs took."""
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
