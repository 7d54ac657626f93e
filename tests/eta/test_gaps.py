"""Stages that say nothing for most of a run, and did so in every past run: expected, and no stall."""

from __future__ import annotations

import pytest

from otel_progress.eta import Trajectory, estimate
from tests.support.sample_runs import error, seen, steady, stepped, trajectory


def silent(steps: int, pace: float, at: int = 40) -> Trajectory:
    """Return a run of so many equal steps of which one, a stage that says nothing, takes 60 % of the time: about 150 s x pace."""
    gaps = [pace * 60.0 / steps] * steps
    gaps[at * steps // 100] = pace * 90.0
    return trajectory(stepped(gaps))


@pytest.mark.parametrize("pace", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [100, 97])
def test_stage_that_is_silent_in_every_run(steps: int, pace: float) -> None:
    """Where all past runs said nothing for most of their time this one does not stall, and what is left counts down through it."""
    history = [silent(100, past) for past in (0.95, 1.0, 1.02, 1.05)]
    run = silent(steps, pace)
    assert error(run, history, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]) < 0.05
    since, left = run.duration_s * 0.25, run.duration_s * 0.75
    assert estimate(seen(run, since), since + 0.6 * run.duration_s, history).state != "stalled"
    late = estimate(seen(run, since), since + 4.0 * run.duration_s, history)
    assert late.state == "stalled"
    assert (late.low_s or 0.0) < left


def test_silent_stage_of_much_progress() -> None:
    """A silent stage that is a quarter of the progress is expected just the same, though usual steps are a hundredth."""
    fractions = [n / 134 for n in range(34)] + [0.25 + n / 134 for n in range(34, 101)]
    runs = []
    for pace in (0.95, 1.0, 1.05, 2.0):
        times = [pace * (n if n < 34 else n + 200.0) for n in range(101)]
        runs.append(trajectory(list(zip(times, fractions, strict=True)), tail=pace))
    *history, run = runs
    assert error(run, history, [part / 20 for part in range(4, 20)]) < 0.05


def test_stall_where_past_runs_went_on() -> None:
    """A long gap that past runs made elsewhere does not excuse one here: it ends when thrice their usual one, or theirs, is over."""
    history = [silent(100, past) for past in (0.95, 1.0, 1.05)]
    run = trajectory(steady(60.0, 100))
    assert estimate(seen(run, 6.0), 6.0 + 3.5 * 90.0, history).state == "stalled"
