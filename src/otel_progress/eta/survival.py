"""Durations of children as a Kaplan-Meier distribution.

It includes children that ended, that are running, and that ran in past runs. A running child has
lasted at least its elapsed time. Without it, early estimates would include only short children.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

MAX_DURATIONS: Final = 40
"""Maximum number of durations in the distribution. More are sampled, and their mean is kept."""


HALF_WEIGHT_COUNT: Final = 2.0
"""Number of ended children at which this run's rate has half the weight of that of past runs."""


MAX_SPEED_RATIO: Final = 1000.0
"""Maximum ratio of the speeds of two runs."""


MAX_KNOWN_DURATIONS: Final = 8
"""Maximum number of evenly spaced durations of past runs. Those of this run soon outweigh them."""


MIN_SURVIVAL: Final = 1e-6
"""Minimum share of surviving children. Smaller shares are rounding errors."""


GOLDEN_RATIO: Final = (5**0.5 - 1) / 2
"""Its multiples modulo 1 are evenly spread between 0 and 1: a deterministic sample."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Distribution of the durations of children, in seconds.

    ``durations`` ascend. ``ended`` is the share (0 to 1) that has ended by each. ``mean`` is the
    mean duration. ``excess`` is the mean time by which a child exceeds the longest duration.
    """

    durations: Sequence[float]
    ended: Sequence[float]
    mean: float
    excess: float

    def remaining_after(self, lasted: float, quantile: float) -> float:
        """Return the remaining seconds of a child after ``lasted`` seconds.

        ``quantile`` is between 0 (the shortest) and 1.
        """
        before = bisect_right(self.durations, lasted)
        if before == len(self.durations):
            return self.excess * quantile * 2.0
        ended = self.ended[before - 1] if before else 0.0
        index = bisect_right(self.ended, ended + quantile * (1.0 - ended))
        if index < len(self.durations):
            return self.durations[index] - lasted
        return self.durations[-1] + self.excess - lasted


def fit_lifetimes(
    ended: Sequence[float], running: Sequence[float], known: Sequence[float] = ()
) -> Lifetimes | None:
    """Return the distribution of durations, or None while none is known.

    ``known`` are durations of past runs. They are scaled to the rate of this run as far as it is
    known, because a machine can be busy for a whole run. If very many children of this run have
    ended, past runs are ignored.
    """
    own = _fit_distribution(_sample_durations(ended), running, len(ended))
    if not known or len(ended) > MAX_DURATIONS:
        return own
    past_mean, weight = sum(known) / len(known), len(ended) / (len(ended) + HALF_WEIGHT_COUNT)
    scale = 1.0
    if own is not None and past_mean > 0.0:
        scale = min(max(own.mean / past_mean, 1.0 / MAX_SPEED_RATIO), MAX_SPEED_RATIO) ** weight
    past = sorted(known)
    if len(past) > MAX_KNOWN_DURATIONS:
        count = MAX_KNOWN_DURATIONS
        past = [past[(2 * n + 1) * len(past) // (2 * count)] for n in range(count)]
    durations = [*_sample_durations(ended), *(scale * duration for duration in past)]
    return _fit_distribution(durations, running, len(ended) + len(past))


def _fit_distribution(durations: Sequence[float], running: Sequence[float], count: int) -> Lifetimes | None:
    """Return the product-limit estimate (Kaplan and Meier, 1958).

    ``durations`` represent ``count`` children. Children that outlast all durations have an
    exponential tail through the surviving share (Brown, Hollander and Korwar, 1974). Without such a
    share, the excess is the mean absolute deviation of the durations.
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
    if alive > MIN_SURVIVAL:
        excess = done[-1] / -log(alive)
    else:
        average = sum(done) / len(done)
        excess = sum(abs(duration - average) for duration in done) / len(done)
    return Lifetimes(done, shares, mean + alive * excess, excess)


def _sample_durations(durations: Sequence[float]) -> Sequence[float]:
    """Return at most ``MAX_DURATIONS`` of them with the mean of all.

    Why not at a fixed distance: durations may have a repeating pattern.
    """
    count = len(durations)
    if count <= MAX_DURATIONS:
        return durations
    sample = [durations[int(n * GOLDEN_RATIO % 1.0 * count)] for n in range(MAX_DURATIONS)]
    mean, sample_mean = sum(durations) / count, sum(sample) / MAX_DURATIONS
    return [duration * mean / sample_mean for duration in sample] if sample_mean > 0.0 else sample
