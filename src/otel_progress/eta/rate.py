"""The pace of a run itself: seconds a unit of fraction over the recent half of its work, the later of it counted more."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

from otel_progress.eta.curves import ROUNDING, Curve

HALF: Final = 0.5
"""The recent part of the work from which the own pace comes."""
MANY: Final = 8
"""From so many steps on their pace is believed as it is; before, one that was slow (the first of its kind, mostly) would be most of it."""
LEAST: Final = 1e-6
"""Over less of the whole work than this the plain mean is taken: differences of the sums would be rounding errors."""
TINY: Final = 1e-12
"""No advance counts as smaller: nobody counts a billion of billions, and a division must not overflow."""


def beginning(run: Curve, last: int, share: float) -> int:
    """Return the index from which on the latest ``share`` of the work up to ``last`` was done; below ``last`` unless that is 0."""
    fractions = run.fractions
    done = fractions[last] - fractions[0]
    return min(bisect_left(fractions, fractions[last] - share * done), max(0, last - 1))


def pace(run: Curve, last: int) -> float | None:
    """Return the seconds that a whole (fraction 0 to 1) takes at the pace of late at ``last``; None before the first advance.

    With few steps so far, by how much it is slower than the median step counts in part only: a seventh of it with two,
    all of it from eight on. What is warming up, or did one unusual thing, is not yet how the work goes.
    """
    if last < 1:
        return None
    late = _late(run, last)
    if 1 < last < MANY:
        usual = _usual(run, last)
        if late > usual:
            return usual + (late - usual) * (last - 1) / (MANY - 1)
    return late


def _late(run: Curve, last: int) -> float:
    """Return the mean of seconds / fraction over the recent half of the work, weighted by how far into that half the work was done.

    The weight of the fraction f is f - a, from a = half of it on. A slow first step is forgotten, a change of pace followed without a
    jump at every step. The weighted sum of the seconds comes from the running sums of the curve, and the integral of the weights
    is (b - a)^2 / 2.
    """
    first = beginning(run, last, HALF)
    done, took = run.fractions[last] - run.fractions[first], run.times[last] - run.times[first]
    if done < LEAST:
        return took / max(done, TINY)
    weighted = run.moments[last] - run.moments[first] - 2 * (run.fractions[first] - run.fractions[0]) * took
    return max(0.0, weighted) / (done * done)


def _usual(run: Curve, last: int) -> float:
    """Return the pace of the median step, by work: half of the work, or a little more, was done at this pace or a faster one."""
    times, fractions = run.times, run.fractions
    sizes = [fractions[n + 1] - fractions[n] for n in range(last)]
    paces = sorted([((times[n + 1] - times[n]) / max(size, TINY), size) for n, size in enumerate(sizes)])
    half = (HALF - ROUNDING) * (fractions[last] - fractions[0])
    done = list(accumulate(size for _, size in paces))
    return paces[bisect_left(done, half)][0]
