"""Tests of an operation without a total around one tracked loop."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress import Condition, Eta
from otel_progress.testing import Recorder


def _run_loop(recorder: Recorder, op: progress.Level, seconds: float, total: int = 10) -> list[Eta | None]:
    """Run a loop, and return the estimates of the operation that differ."""
    different = []
    loop = op.track(range(total))
    for _ in loop:
        recorder.clock.advance(seconds)
        recorder.tick()
        seen = recorder.operation("o")
        level = seen.levels[-1]
        assert seen.ratio == level.ratio
        if seen.eta != seen.eta_of(level) or op.eta != loop.level.eta:
            different.append(seen.eta)
    return different


def test_operation_without_total_has_ratio_and_eta_of_its_only_loop(recorder: Recorder) -> None:
    """The time before the loop does not change the estimate."""
    with progress.operation("job", id="o") as op:
        recorder.clock.advance(60.0)
        recorder.tick()
        assert recorder.operation("o").ratio is None
        assert _run_loop(recorder, op, 2.0) == []
        recorder.tick()
        seen = recorder.operation("o")
        assert (seen.ratio, seen.eta) == (1.0, None)
    ratios = [level.ratio for level in recorder.operation("o").levels]
    assert ratios == [1.0]


def test_estimate_of_an_operation_around_one_loop_exists_and_counts_down(recorder: Recorder) -> None:
    """A reader that asks only for the operation receives the estimate, too."""
    with progress.operation("job", id="o") as op:
        for number in op.track(range(100)):
            recorder.clock.advance(1.0)
            if number == 49:
                eta = op.eta
                assert eta is not None
                assert eta.remaining_s == pytest.approx(51.0, rel=0.05)
                assert op.snapshot().ratio == pytest.approx(0.49)


def test_second_loop_makes_ratio_and_eta_unknown(recorder: Recorder) -> None:
    """They would describe a part of the operation only."""
    with progress.operation("job", id="o") as op:
        _run_loop(recorder, op, 2.0)
        for _ in op.track(range(5)):
            recorder.clock.advance(2.0)
            recorder.tick()
            seen = recorder.operation("o")
            assert (seen.ratio, seen.eta) == (None, None)


@pytest.mark.parametrize("change", ["total", "count", "stages"])
def test_own_figures_of_an_operation_override_those_of_its_loop(recorder: Recorder, change: str) -> None:
    """A total, an own count and declared stages define the ratio."""
    with progress.operation("job", id="o", stages=["a", "b"] if change == "stages" else None) as op:
        for number in op.track(range(10)):
            recorder.clock.advance(2.0)
            recorder.tick()
            if number == 3:
                if change == "total":
                    op.set_total(100)
                elif change == "count":
                    op.increment()
            if number > 3:
                ratio = recorder.operation("o").ratio
                assert ratio == {"total": pytest.approx(0.0, abs=0.02), "count": None, "stages": 0.0}[change]


def test_operation_with_history_uses_its_own_durations(recorder: Recorder) -> None:
    """Otherwise work after the loop would make every run overdue."""
    for number in range(5):
        with progress.operation("job", id="o") as op:
            _run_loop(recorder, op, 1.0)
            recorder.clock.advance(90.0)
            recorder.tick()
            seen = recorder.operation("o")
            assert seen.condition is not Condition.OVERDUE
            if number >= 3:
                eta = seen.eta
                assert eta is not None
                assert eta.runs == number
        recorder.tick()


def test_loop_with_unknown_length_leaves_the_ratio_unknown(recorder: Recorder) -> None:
    """Nothing is known about it."""
    with progress.operation("job", id="o") as op:
        for _ in op.track(iter(range(5))):
            recorder.clock.advance(2.0)
            recorder.tick()
            seen = recorder.operation("o")
            assert (seen.ratio, seen.eta) == (None, None)
