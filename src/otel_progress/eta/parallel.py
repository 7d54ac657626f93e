"""Simulation of children that run in parallel on workers, until the last one ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import cycle, islice
from math import isfinite
from typing import Final

from otel_progress.errors import RejectedValueError
from otel_progress.eta.curves import MAX_SECONDS, is_seconds
from otel_progress.eta.survival import GOLDEN_RATIO, fit_lifetimes

SIMULATED_ROUNDS: Final = 2
"""Number of last children per worker that are simulated. Earlier ones only delay their start."""


MAX_SIMULATED: Final = 96
"""Maximum number of simulated children per estimate, over all repetitions."""


REPEATS: Final = (1, 12)
"""Minimum and maximum number of repetitions."""


MAX_WORKERS: Final = 128
"""Maximum number of simulated workers. More workers are scaled down with their work."""


TABLE_SIZE: Final = 34
"""Number of equally likely durations that represent the distribution."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Children of one level that run in parallel on ``workers`` workers.

    ``ended`` are the durations of finished children, and ``running`` the elapsed times of running
    ones. ``remaining`` is the number of children not yet started. ``known`` are durations of such
    children in past runs. All times are in seconds.
    """

    ended: Sequence[float]
    running: Sequence[float]
    remaining: int
    workers: int
    known: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Simulation:
    """Result of a simulation.

    ``remaining_s`` is the mean time until the last child ends. ``longest_s`` is the longest known
    duration of a child. Both are in seconds.
    """

    remaining_s: float
    longest_s: float


def simulate(children: Parallel) -> Simulation | None:
    """Simulate the remaining children.

    Return None while no duration of a child is known.

    The next child starts on the first free worker. The remaining time of a running child is that
    of the children that lasted longer than it. If many children remain, the workers first do equal
    numbers of them at the mean duration.

    Raises:
        RejectedValueError: A duration or a count is invalid.

    """
    _check_children(children)
    lives = fit_lifetimes(children.ended, children.running, children.known)
    if lives is None:
        return None
    workers, running, remaining = _limit_workers(children)
    # Only the last rounds are simulated, because they determine when the last child ends.
    rounds = max(0, remaining // workers - SIMULATED_ROUNDS)
    simulated = remaining - rounds * workers
    repeats = min(max(MAX_SIMULATED // (simulated + len(running) + 1), REPEATS[0]), REPEATS[1])
    table_size = min(TABLE_SIZE, simulated * repeats)
    fresh = cycle([lives.remaining_after(0.0, n * GOLDEN_RATIO % 1.0) for n in range(table_size)])
    total = 0.0
    for repeat in range(repeats):
        shift = (repeat + 0.5) / repeats
        free = [
            lives.remaining_after(lasted, (n * GOLDEN_RATIO + shift) % 1.0)
            for n, lasted in enumerate(running)
        ]
        free += [0.0] * (workers - len(free))
        heapify(free)
        for duration in islice(fresh, simulated):
            heapreplace(free, free[0] + duration)
        total += max(free)
    longest = max(lives.durations[-1], *children.ended, *children.known)
    return Simulation(rounds * lives.mean + total / repeats, longest)


def _limit_workers(children: Parallel) -> tuple[int, Sequence[float], int]:
    """Return the number of workers, their running children, and the remaining ones."""
    workers = max(children.workers, len(children.running))
    if workers <= MAX_WORKERS:
        return workers, children.running, children.remaining
    running = children.running
    count = round(len(running) * MAX_WORKERS / workers)
    sample = [running[(2 * n + 1) * len(running) // (2 * count)] for n in range(count)]
    return MAX_WORKERS, sample, round(children.remaining * MAX_WORKERS / workers)


def _check_children(children: Parallel) -> None:
    for name in ("ended", "running", "known"):
        values = getattr(children, name)
        if values and not (isfinite(sum(values)) and is_seconds(min(values)) and is_seconds(max(values))):
            bad = next((n for n, seconds in enumerate(values) if not is_seconds(seconds)), 0)
            msg = f"Invalid parallel.{name}[{bad}] {values[bad]}: expected seconds from 0 to {MAX_SECONDS:g}."
            raise RejectedValueError(msg)
    for name, minimum in (("remaining", 0), ("workers", 1)):
        count = getattr(children, name)
        if not minimum <= count <= MAX_SECONDS:
            msg = f"Invalid parallel.{name} {count}: expected {minimum} to {MAX_SECONDS:g}."
            raise RejectedValueError(msg)
