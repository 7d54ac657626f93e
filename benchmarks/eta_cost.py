"""Cost of one estimate: 20 runs of maximum length, halfway through a long run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.rounds import Effort
from benchmarks.table import Row, judged
from otel_progress.eta import estimate
from otel_progress.records import Trajectory

BOUND_US: Final = 200.0
HISTORY: Final = 20
POINTS: Final = 64
_DURATION_S: Final = 600.0


def history(seed: int, runs: int = HISTORY) -> tuple[Trajectory, ...]:
    """Return past runs with different steps and the maximum length in the journal."""
    random = Random(seed)
    return tuple(_trajectory(random) for _ in range(runs))


def _trajectory(random: Random) -> Trajectory:
    steps = [random.uniform(0.5, 1.5) * (1 + number / POINTS) for number in range(POINTS)]
    scale, at, points = _DURATION_S * random.uniform(0.9, 1.1) / sum(steps), 0.0, [(0.0, 0.0)]
    for number, step in enumerate(steps[:-1], 1):
        at += step * scale
        points.append((at, number / POINTS))
    return Trajectory(sum(steps) * scale, tuple(points))


def cost(effort: Effort) -> Iterator[Row]:
    """Yield the time of one estimate: with a known history, a new one, and none."""
    present = history(-1, 1)[0].points[: POINTS // 2]
    elapsed, known = present[-1][0] + 1.0, history(0)
    times = effort.count(200)
    usual = _median_us([lambda: estimate(present, elapsed, known)] * times)
    yield judged(
        f"one estimate, {HISTORY} runs of history",
        f"{usual:.0f} µs",
        "",
        f"≤ {BOUND_US:g} µs",
        met=usual <= BOUND_US,
    )
    fresh = [history(seed) for seed in range(1, 1 + max(3, times // 10))]
    first = _median_us([lambda past=past: estimate(present, elapsed, past) for past in fresh])  # type: ignore[misc]
    yield Row(f"  the first one of a new history of {HISTORY} runs", f"{first:.0f} µs")
    yield Row(
        "  one without history", f"{_median_us([lambda: estimate(present, elapsed, ())] * times):.0f} µs"
    )


def _median_us(jobs: list[Callable[[], object]]) -> float:
    spent = []
    for job in jobs:
        started = perf_counter()
        job()
        spent.append(perf_counter() - started)
    return 1e6 * median(spent)
