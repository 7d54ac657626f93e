"""Stages without advances for most of a run: expected if past runs have them."""

from __future__ import annotations

import pytest

from otel_progress.eta import Trajectory, estimate
from tests.support.sample_runs import error, seen, steady, stepped, trajectory


def build_silent_run(steps: int, pace: float, at: int = 40) -> Trajectory:
    """Return a run of equal steps, of which one takes 60 % of the time."""
    gaps = [pace * 60.0 / steps] * steps
    gaps[at * steps // 100] = pace * 90.0
    return trajectory(stepped(gaps))


@pytest.mark.parametrize("pace", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [100, 97])
def test_silent_stage_of_all_past_runs_counts_down(steps: int, pace: float) -> None:
    """The run does not stall."""
    history = [build_silent_run(100, past) for past in (0.95, 1.0, 1.02, 1.05)]
    run = build_silent_run(steps, pace)
    assert error(run, history, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]) < 0.05
    since, left = run.duration_s * 0.25, run.duration_s * 0.75
    assert estimate(seen(run, since), since + 0.6 * run.duration_s, history).state != "stalled"
    late = estimate(seen(run, since), since + 4.0 * run.duration_s, history)
    assert late.state == "stalled"
    assert (late.low_s or 0.0) < left


def test_silent_stage_with_much_progress_counts_down() -> None:
    """The usual steps are much smaller."""
    fractions = [n / 134 for n in range(34)] + [0.25 + n / 134 for n in range(34, 101)]
    runs = []
    for pace in (0.95, 1.0, 1.05, 2.0):
        times = [pace * (n if n < 34 else n + 200.0) for n in range(101)]
        runs.append(trajectory(list(zip(times, fractions, strict=True)), tail=pace))
    *history, run = runs
    assert error(run, history, [part / 20 for part in range(4, 20)]) < 0.05


def test_gap_elsewhere_than_in_past_runs_stalls() -> None:
    """The limit is three times the longest known gap."""
    history = [build_silent_run(100, past) for past in (0.95, 1.0, 1.05)]
    run = trajectory(steady(60.0, 100))
    assert estimate(seen(run, 6.0), 6.0 + 3.5 * 90.0, history).state == "stalled"
