"""Timing on a loaded machine: variants alternate, and the best round counts."""

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
    """One variant of a task.

    ``prepare`` sets up, yields the job that is timed, and cleans up.
    """

    name: str
    prepare: Callable[[], AbstractContextManager[Job]]


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of work.

    ``share`` scales numbers of iterations, levels and seconds, ``rounds`` scales repetitions.
    """

    share: float = 1.0
    rounds: int = 9

    def count(self, full: int) -> int:
        """Return the scaled number of ``full``, at least ten."""
        return max(10, int(full * self.share))

    def seconds(self, full: float) -> float:
        """Return the scaled duration of ``full`` seconds, at least half a second."""
        return max(0.5, full * self.share)


def best_seconds(variants: Sequence[Variant], rounds: int) -> dict[str, float]:
    """Return the shortest time of each variant's job in seconds.

    Every round runs all variants, starting with another one, so that no variant has an advantage.
    Garbage is collected before each job, and the collector is active during it.
    """
    best = dict.fromkeys((variant.name for variant in variants), math.inf)
    for number in range(rounds):
        first = number % len(variants)
        for variant in (*variants[first:], *variants[:first]):
            with variant.prepare() as job:
                gc.collect()
                started = time.perf_counter()
                job()
                seconds = time.perf_counter() - started
            best[variant.name] = min(best[variant.name], seconds)
    return best
