"""Estimates for recorded runs, as exact numbers, and quantiles."""

from __future__ import annotations

from dataclasses import astuple

from benchmarks.eta_traces import FOLDER, Run, load

from otel_progress.eta import Parallel, Trajectory, estimate
from otel_progress.quantiles import interpolated_quantile
from tests.support.golden.files import Golden

SHARES = (0.02, 0.1, 0.3, 0.5, 0.8, 0.95)
"""Shares of the duration at which estimates are made."""
RUNS = 2
"""The last runs of each group, estimated with 0, 2 and all earlier runs as history."""


def test_estimates_of_recorded_runs_equal_golden_file(golden: Golden) -> None:
    """Every field of the estimates along recorded runs."""
    found: dict[str, list[str]] = {}
    for path in sorted(FOLDER.glob("*.gz")):
        for (workload, system), runs in sorted(load(path).items()):
            past = [run.trajectory for run in runs]
            for index in range(max(0, len(runs) - RUNS), len(runs)):
                for count in sorted({0, min(2, index), index}):
                    name = f"{path.name} {workload} {system} run {index} history {count}"
                    found[name] = _along(runs[index], past[index - count : index])
    golden.json("eta/estimates.json", found)


def test_estimates_of_parallel_children_equal_golden_file(golden: Golden) -> None:
    """Parallel children, with and without history."""
    points = [(float(second), second / 20) for second in range(11)]
    history = [Trajectory(20.0 + number, [(0.0, 0.0), (10.0, 0.45), (20.0, 1.0)]) for number in range(4)]
    children = [
        Parallel([3.0, 4.0, 5.0], [1.0, 2.5], pending, workers)
        for pending in (0, 1, 7)
        for workers in (1, 2, 8)
    ]
    golden.json(
        "eta/parallel.json",
        [
            repr(astuple(estimate(points, 11.0, past, parallel=one)))
            for past in ([], history)
            for one in children
        ],
    )


def test_quantiles_equal_golden_file(golden: Golden) -> None:
    """Quantiles are interpolated linearly."""
    values = ([1.0], [3.0, 1.0], [0.1, 0.2, 0.7, 1.5, 9.0], [float(number * number) for number in range(17)])
    shares = (0.0, 0.1, 0.25, 0.5, 0.9, 0.99, 1.0)
    golden.json(
        "eta/quantiles.json",
        [[repr(interpolated_quantile(one, share)) for share in shares] for one in values],
    )


def _along(run: Run, history: list[Trajectory]) -> list[str]:
    found = []
    for share in SHARES:
        elapsed = run.duration_s * share
        points = [point for point in run.points if point[0] <= elapsed]
        found.append(repr(astuple(estimate(points, elapsed, history))))
    return found
