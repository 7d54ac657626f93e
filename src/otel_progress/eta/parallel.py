"""Children that run side by side on some workers: when the last of them ends, by playing through what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import cycle, islice
from math import isfinite
from typing import Final

from otel_progress.errors import RejectedValueError
from otel_progress.eta.curves import LONGEST, is_seconds
from otel_progress.eta.survival import GOLDEN, lifetimes

ROUNDS: Final = 2
"""The last so many children of each worker are played through; those before only shift when that begins."""


MAX_SIMULATED: Final = 96
"""So many children are played through for an estimate, over as many repetitions as that allows..."""


REPEATS: Final = (1, 12)
"""...but at least and at most so many."""


MAX_WORKERS: Final = 128
"""More workers than this are played as so many, with as much of the work: when the last one ends hardly depends on it."""


TABLE: Final = 34
"""So many equally likely durations stand for the distribution."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Children of one level that run side by side on ``workers`` workers; all times in seconds.

    ``ended`` are the durations of those that ended, ``running`` the elapsed times of those that run, ``remaining`` is the number of those
    that have not started, ``known`` are durations of such children in past runs.
    """

    ended: Sequence[float]
    running: Sequence[float]
    remaining: int
    workers: int
    known: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Simulation:
    """What playing through came to: the mean seconds until the last child ends, and the longest that one is known to take."""

    remaining_s: float
    longest_s: float


def simulate(children: Parallel) -> Simulation | None:
    """Play through the children that are left; None while no duration of any child is known.

    Whenever a worker is free, the next child starts on it. A child that runs has as long to go as those that lasted longer than it.
    With very many to come, the workers first do equal shares of those at the mean duration, in no time.

    Raises:
        RejectedValueError: A duration or a count is negative or not finite, or there is no worker.

    """
    _check(children)
    lives = lifetimes(children.ended, children.running, children.known)
    if lives is None:
        return None
    workers, running, remaining = _crowd(children)
    rounds = max(0, remaining // workers - ROUNDS)  # whole ones: how the last round falls out is what matters
    played = remaining - rounds * workers
    repeats = min(max(MAX_SIMULATED // (played + len(running) + 1), REPEATS[0]), REPEATS[1])
    fresh = cycle([lives.remaining_after(0.0, n * GOLDEN % 1.0) for n in range(min(TABLE, played * repeats))])
    total = 0.0
    for repeat in range(repeats):
        shift = (repeat + 0.5) / repeats
        free = [lives.remaining_after(lasted, (n * GOLDEN + shift) % 1.0) for n, lasted in enumerate(running)]
        free += [0.0] * (workers - len(free))
        heapify(free)
        for duration in islice(fresh, played):
            heapreplace(free, free[0] + duration)
        total += max(free)
    longest = max(lives.durations[-1], *children.ended, *children.known)
    return Simulation(rounds * lives.mean + total / repeats, longest)


def _crowd(children: Parallel) -> tuple[int, Sequence[float], int]:
    """Return the workers to play with, what runs on them, and how many children they have to do."""
    workers = max(children.workers, len(children.running))
    if workers <= MAX_WORKERS:
        return workers, children.running, children.remaining
    running = children.running
    kept = round(len(running) * MAX_WORKERS / workers)
    drawn = [running[(2 * n + 1) * len(running) // (2 * kept)] for n in range(kept)]
    return MAX_WORKERS, drawn, round(children.remaining * MAX_WORKERS / workers)


def _check(children: Parallel) -> None:
    for name in ("ended", "running", "known"):
        values = getattr(children, name)
        if values and not (isfinite(sum(values)) and is_seconds(min(values)) and is_seconds(max(values))):
            bad = next((n for n, seconds in enumerate(values) if not is_seconds(seconds)), 0)
            msg = f"parallel.{name}[{bad}]: expected a number of seconds from 0 to {LONGEST:g}, got {values[bad]}"
            raise RejectedValueError(msg)
    if not 0 <= children.remaining <= LONGEST or not 1 <= children.workers <= LONGEST:
        msg = f"parallel: expected remaining >= 0 and workers >= 1, at most {LONGEST:g}, got {children.remaining} and {children.workers}"
        raise RejectedValueError(msg)
