"""Timing that two busy cores cannot fool much: variants take turns, round after round, and the best of each counts."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

Job: TypeAlias = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of doing the same thing. ``prepare`` sets up, gives the job that is timed, and clears up; only the job is timed."""

    name: str
    prepare: Callable[[], AbstractContextManager[Job]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done: ``share`` scales every number of iterations, levels and seconds, ``rounds`` every repetition."""

    share: float = 1.0
    rounds: int = 9

    def count(self, full: int) -> int:
        """Return how many of ``full`` to do, at least ten."""
        return max(10, int(full * self.share))

    def seconds(self, full: float) -> float:
        """Return how long to go on instead of ``full`` seconds, at least half a second."""
        return max(0.5, full * self.share)


def best_seconds(variants: Sequence[Variant], rounds: int) -> dict[str, float]:
    """Return the shortest time of each variant's job, in seconds.

    Every round runs all variants, each time from another one on, so that neither a slow moment of the machine nor the place in
    the order favours one. Garbage is collected before each job and the collector left on during it, for all alike.
    """
    best = dict.fromkeys((variant.name for variant in variants), math.inf)
    for number in range(rounds):
        first = number % len(variants)
        for variant in (*variants[first:], *variants[:first]):
            with variant.prepare() as job:
                gc.collect()
                began = time.perf_counter()
                job()
                seconds = time.perf_counter() - began
            best[variant.name] = min(best[variant.name], seconds)
    return best
