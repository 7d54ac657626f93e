"""Deterministic runs of known shape for the tests of the estimators."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from random import Random

from otel_progress.eta import Eta, Trajectory, estimate

Points = list[tuple[float, float]]
Estimator = Callable[[Points, float, Sequence[Trajectory]], float | None]
ASKED = [part / 20 for part in range(1, 20)]


def steady(seconds: float = 100.0, steps: int = 50) -> Points:
    """Return a run with a constant rate."""
    return [(seconds * n / steps, n / steps) for n in range(steps + 1)]


def stepped(gaps: Sequence[float]) -> Points:
    """Return a run of equal steps with the given durations."""
    points, at = [(0.0, 0.0)], 0.0
    for n, gap in enumerate(gaps, 1):
        at += gap
        points.append((at, n / len(gaps)))
    return points


def trajectory(points: Points, tail: float = 0.0) -> Trajectory:
    """Return a run as stored in the history, ``tail`` seconds after its last point."""
    return Trajectory(points[-1][0] + tail, points)


def job(random: Random, steps: int = 40, noise: float = 0.1, pace: float = 1.0) -> Trajectory:
    """Return a run with a slow start, a slow middle third and a fast end.

    The rate differs between runs.
    """
    pace *= random.uniform(0.8, 1.25)
    shape = [8.0] + [3.0 if steps / 3 < n < 2 * steps / 3 else 1.0 for n in range(1, steps)]
    return trajectory(
        stepped([pace * gap * random.uniform(1 - noise, 1 + noise) for gap in shape]), tail=pace
    )


def jobs(count: int, seed: int = 1, pace: float = 1.0) -> list[Trajectory]:
    """Return so many runs of the same job."""
    random = Random(seed)
    return [job(random, pace=pace) for _ in range(count)]


def seen(run: Trajectory, at: float) -> Points:
    """Return the known part of a run ``at`` seconds after its start."""
    return list(run.points[: bisect_right([time for time, _ in run.points], at)])


def asked(
    run: Trajectory, history: Sequence[Trajectory], part: float, confidence: float = 0.8
) -> tuple[float, Eta]:
    """Return the true remaining seconds at this part of a run, and the estimate."""
    at = run.duration_s * part
    return run.duration_s - at, estimate(seen(run, at), at, history, confidence=confidence)


def error(run: Trajectory, history: Sequence[Trajectory], parts: Sequence[float] = ASKED) -> float:
    """Return the mean |error| / duration of the estimates at these parts of a run.

    A missing estimate counts as 1.
    """
    errors = []
    for part in parts:
        left, eta = asked(run, history, part)
        errors.append(1.0 if eta.remaining_s is None else abs(eta.remaining_s - left) / run.duration_s)
    return sum(errors) / len(errors)
