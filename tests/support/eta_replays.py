"""Runs, questions and hand-computed results for the tests of the replay."""

from __future__ import annotations

from typing import Any

from benchmarks.eta_baselines import BASELINES
from benchmarks.eta_replay import OURS, Sums
from benchmarks.eta_scenarios import SCENARIOS, Asked, questions
from benchmarks.eta_traces import Run

from otel_progress import Eta

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
STEADY = tuple((float(second), second / 10) for second in range(11))


def steady(
    number: int, duration: float = 10.0, workload: str = "job", system: str = "here", **more: Any
) -> Run:
    """Return a run of ten equal steps."""
    points = tuple((at * duration / 10, ratio) for at, ratio in STEADY)
    return Run(workload, system, number, duration, points, **more)


def asked_at(scenario: str, run: Run, share: float) -> Asked:
    """Return the question of a scenario at a share of the duration."""
    return next(one for one in questions(BY_NAME[scenario], run, ()) if one.share == share)


def make_estimate(
    remaining: float | None, low: float | None = None, high: float | None = None, state: Any = "estimated"
) -> Eta:
    """Return an estimate of the estimator's type."""
    return Eta(remaining, low, high, state, "history", 3, 0.0)


def results_with(ours: Sums, others: Sums) -> dict[tuple[str, str, str], Sums]:
    """Return results of one workload in the scenario with history."""
    return {("history", "job", OURS): ours, **{("history", "job", name): others for name in BASELINES}}


def sums(error: float, covered: int = 80, jumps: float = 0.05) -> Sums:
    """Return the sums of a hundred estimates in one run with a mean error.

    Three quarters of the estimates are late.
    """
    return Sums(100, 100, 100 * error, 100 * error, 75, 75 * error, 75 * error, 100, covered, 10.0, 1, jumps)
