"""A long curve as a short one of the same shape."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from operator import add, mul, sub
from typing import Final, TypeAlias

from otel_progress.errors import RejectedValueError

Point = tuple[float, float]


def shrink(points: Sequence[Point], most: int = 64) -> list[Point]:
    """Return at most ``most`` of these (elapsed, fraction) points, ascending in both: the first, the last, and those that keep the shape.

    They are evenly spaced along the curve, time and fraction each as a share of its whole: so a pause keeps points, and a leap too. Both
    ends of the longest gap stay, so that it can still be told how long work was silent. With m = ``most`` - 4, what is left
    out is off the straight line between its neighbours by no more than 2/m of the duration and 2/m of the progress.
    """
    if most < 4:
        msg = f"most: expected at least 4 points, got {most}"
        raise ValueError(msg)
    if len(points) <= most:
        return list(points)
    (start, base), (end, done) = points[0], points[-1]
    duration, progress = (end - start) or 1.0, (done - base) or 1.0
    lengths = [(time - start) / duration + (fraction - base) / progress for time, fraction in points]
    longest = max(range(1, len(points)), key=lambda n: points[n][0] - points[n - 1][0])
    wanted = most - 3  # beside the last, and the two ends of the longest gap
    kept = {0, len(points) - 1, longest - 1, longest}
    kept.update(
        min(len(points) - 1, bisect_left(lengths, lengths[-1] * n / wanted)) for n in range(1, wanted)
    )
    return [points[n] for n in sorted(kept)]


Points: TypeAlias = "Sequence[tuple[float, float]]"
"""(elapsed seconds, fraction done 0 to 1), ascending in time."""


MOST_POINTS: Final = 128
"""Of longer curves only so many points, evenly spaced, are looked at, and..."""


LATEST: Final = 16
"""...so many last ones: what an estimate costs stays bounded, and what happened last is seen as it was."""


LONGEST: Final = 1e15
"""Seconds (thirty million years) beyond which a time is a mistake: sums and quotients of shorter ones stay finite."""


ROUNDING: Final = 1e-9
"""How far a fraction may be above 1, or a time before the one before it, for rounding's sake."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A run as (time, fraction) with both ascending and every fraction once: the moments at which it advanced.

    ``duration`` is its length in seconds (so far, for a run that goes on), ``gap`` the longest time without an advance. ``moments``
    are running sums of seconds x twice the fraction done since the base, from which the pace of any part follows at once
    (:mod:`~otel_progress.eta.predictors`).
    """

    duration: float
    times: Sequence[float]
    fractions: Sequence[float]
    moments: Sequence[float]
    gap: float

    def index_at(self, time: float) -> int:
        """Return the index of the last advance that was not after ``time``; 0 before the first."""
        return max(0, bisect_right(self.times, time) - 1)


def time_at(times: Sequence[float], fractions: Sequence[float], fraction: float) -> float:
    """Return when ``fraction`` was reached on an ascending curve, by linear interpolation; before its start and past its end, those."""
    after = bisect_left(fractions, fraction)
    if after == 0:
        return times[0]
    if after == len(fractions):
        return times[-1]
    earlier, done = times[after - 1], fractions[after - 1]
    return earlier + (times[after] - earlier) * (fraction - done) / (fractions[after] - done)


def curve(
    duration: float, times: Sequence[float], fractions: Sequence[float], gap: float | None = None
) -> Curve:
    """Return the curve through these ascending points; ``gap`` when the longest is known better than the points show it."""
    gaps = list(map(sub, times[1:], times))
    base = fractions[0]
    done = [fraction - base for fraction in fractions] if base else fractions
    middles = map(add, done[1:], done)
    moments = [0.0, *accumulate(map(mul, gaps, middles))]
    return Curve(duration, times, fractions, moments, max(gaps, default=0.0) if gap is None else gap)


def checked(points: Points, what: str = "points") -> tuple[list[float], list[float]]:
    """Return the times and fractions of the advances among ``points``, beginning with the base.

    The first point is the base: (0, 0) unless one at 0 seconds says otherwise (a run resumed half way starts at (0.0, 0.5)).
    A fraction that falls says that the total grew: what came before is rescaled to the new total. Points that bring no advance
    and duplicates are dropped.

    Raises:
        RejectedValueError: A point is not two finite numbers, times descend or are negative, or a fraction is not in 0 to 1.

    """
    if len(points) > MOST_POINTS + LATEST:
        points = [*points[: -LATEST : -(-len(points) // MOST_POINTS)], *points[-LATEST:]]
    if not points:
        return [], []
    try:
        columns = list(zip(*points, strict=True))
        times, fractions = map(list, columns)
        sums = sum(times), sum(fractions)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{what}: expected pairs of numbers (elapsed seconds, fraction done); {error}"
        raise RejectedValueError(msg) from None
    if not all(map(isfinite, sums)) and not all(isfinite(value) for pair in points for value in pair):
        bad = next((n for n, pair in enumerate(points) if not all(map(isfinite, pair))), 0)
        msg = f"{what}[{bad}]: expected finite numbers, got {points[bad]}"
        raise RejectedValueError(msg)
    _check(times, fractions, what)
    if sorted(fractions) != fractions:
        _rescale(fractions)
    if times[0] > 0.0:
        times.insert(0, 0.0)
        fractions.insert(0, 0.0)
    elif len(times) > 1 and times[1] == 0.0:
        base = (
            bisect_right(times, 0.0) - 1
        )  # what is done at 0 seconds took none: only the last of them is a base
        del times[:base], fractions[:base]
    if len(set(fractions)) < len(fractions):
        times, fractions = _advances(times, fractions)
    return times, fractions


def is_seconds(value: float) -> bool:
    """Return whether ``value`` is a number of seconds that can be meant."""
    return 0.0 <= value <= LONGEST


def _check(times: list[float], fractions: list[float], what: str) -> None:
    if min(fractions) < 0.0 or max(fractions) > 1.0 + ROUNDING:
        bad = next(n for n, fraction in enumerate(fractions) if not 0.0 <= fraction <= 1.0 + ROUNDING)
        msg = f"{what}[{bad}]: expected a fraction from 0 to 1, got {fractions[bad]}"
        raise RejectedValueError(msg)
    if times[-1] > LONGEST:
        msg = f"{what}[{len(times) - 1}]: expected at most {LONGEST:g} seconds, got {times[-1]}"
        raise RejectedValueError(msg)
    if times[0] < 0.0 or sorted(times) != times:
        bad = next(n for n, time in enumerate(times) if time < (times[n - 1] if n else 0.0))
        msg = f"{what}[{bad}]: expected times from 0 on that ascend, got {times[bad]} after {times[bad - 1] if bad else 'the start'}"
        raise RejectedValueError(msg)


def _rescale(fractions: list[float]) -> None:
    """Make the fractions ascend, in place: where one falls, those before it are scaled down to meet it."""
    scale = 1.0
    for n in range(len(fractions) - 2, -1, -1):
        fraction, following = fractions[n], fractions[n + 1]
        fractions[n] = fraction * scale
        if fractions[n] > following:
            scale = following / fraction
            fractions[n] = following


def _advances(times: list[float], fractions: list[float]) -> tuple[list[float], list[float]]:
    """Return the first of the points at each fraction."""
    first = dict(zip(reversed(fractions), reversed(times), strict=True))
    kept = sorted(first)
    return [first[fraction] for fraction in kept], kept
