"""How long children last, from those that ended, those that still run, and those of past runs: a Kaplan-Meier distribution.

Those that still run count as having lasted at least so long. Leaving them out would be wrong early on, when only the short ones have
ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

SEEN: Final = 40
"""Of more durations than this, so many are looked at, drawn from all over the run; their mean stays that of all."""


SHOWN: Final = 2.0
"""When so many children have ended, the pace of this run is half way from that of past runs to what those say."""


APART: Final = 1000.0
"""No machine is so many times as fast as itself."""


BELIEVED: Final = 8
"""Past children count as so many, evenly spaced ones of them in order: those of this run soon outnumber them."""


SURVIVED: Final = 1e-6
"""A share of children that is smaller is none, but rounding."""


GOLDEN: Final = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, are as evenly spread over 0 to 1 as numbers one after another can be: chance without chance."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long children last: ``durations`` ascending, and by each the share (0 to 1) that has ended by then.

    ``mean`` is the mean duration, ``excess`` by how much a child outlasts the longest of them in the mean; all in seconds.
    """

    durations: Sequence[float]
    ended: Sequence[float]
    mean: float
    excess: float

    def remaining_after(self, lasted: float, luck: float) -> float:
        """Return how many seconds longer than ``lasted`` a child takes, for ``luck`` from 0 (the shortest) to 1."""
        before = bisect_right(self.durations, lasted)
        if before == len(self.durations):
            return self.excess * luck * 2.0
        survived = self.ended[before - 1] if before else 0.0
        place = bisect_right(self.ended, survived + luck * (1.0 - survived))
        return (
            self.durations[place] if place < len(self.durations) else self.durations[-1] + self.excess
        ) - lasted


def lifetimes(
    ended: Sequence[float], running: Sequence[float], known: Sequence[float] = ()
) -> Lifetimes | None:
    """Return how long children last; None while no duration of any is known.

    ``known`` are of past runs. They count at the pace of this one, as far as it shows (machines are busy or idle for a whole run), and
    no longer once very many of this run have ended.
    """
    own = _distribution(_drawn(ended), running, len(ended))
    if not known or len(ended) > SEEN:
        return own
    usual, shown = sum(known) / len(known), len(ended) / (len(ended) + SHOWN)
    pace = 1.0
    if own is not None and usual > 0.0:
        pace = min(max(own.mean / usual, 1.0 / APART), APART) ** shown
    past = sorted(known)
    if len(past) > BELIEVED:
        past = [past[(2 * n + 1) * len(past) // (2 * BELIEVED)] for n in range(BELIEVED)]
    together = [*_drawn(ended), *(pace * duration for duration in past)]
    return _distribution(together, running, len(ended) + len(past))


def _distribution(durations: Sequence[float], running: Sequence[float], count: int) -> Lifetimes | None:
    """Return the product-limit estimate (Kaplan and Meier, 1958) from ``durations`` that stand for ``count``, and those that still run.

    What outlasts them all has an exponential tail, through the share that does (Brown, Hollander and Korwar, 1974); where none is known
    to, one that will is as much longer as they are from each other.
    """
    if not durations:
        return None
    done, waiting = sorted(durations), sorted(running)
    scale = count / len(done)
    alive, shares, mean, before = 1.0, [], 0.0, 0.0
    for n, duration in enumerate(done):
        mean += alive * (duration - before)
        at_risk = (len(done) - n) * scale + len(waiting) - bisect_right(waiting, duration)
        alive *= 1.0 - scale / max(scale, at_risk)
        shares.append(1.0 - alive)
        before = duration
    if alive > SURVIVED:
        excess = done[-1] / -log(alive)
    else:
        average = sum(done) / len(done)
        excess = sum(abs(duration - average) for duration in done) / len(done)
    return Lifetimes(done, shares, mean + alive * excess, excess)


def _drawn(durations: Sequence[float]) -> Sequence[float]:
    """Return at most ``SEEN`` of them with the mean of all; at no fixed distance, for patterns among them repeat."""
    count = len(durations)
    if count <= SEEN:
        return durations
    drawn = [durations[int(n * GOLDEN % 1.0 * count)] for n in range(SEEN)]
    whole, part = sum(durations) / count, sum(drawn) / SEEN
    return [duration * whole / part for duration in drawn] if part > 0.0 else drawn
