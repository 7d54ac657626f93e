"""Progress curves: validation, interpolation and downsampling."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from operator import add, mul, sub
from typing import Final, TypeAlias

from otel_progress.errors import RejectedValueError
from otel_progress.records import MAX_TRAJECTORY_POINTS

Point = tuple[float, float]


def shrink(points: Sequence[Point], most: int = MAX_TRAJECTORY_POINTS) -> list[Point]:
    """Downsample (elapsed, fraction) points to at most ``most`` that keep the shape.

    The points ascend in both. The first and the last point are kept, and both ends of the longest
    gap. The others are evenly spaced along the curve, with time and fraction as shares of the
    whole. So pauses and jumps keep points. With m = ``most`` - 4, a dropped point deviates from
    the straight line between its neighbours by at most 2/m of the duration and 2/m of the
    progress.
    """
    if most < 4:
        msg = f"Invalid most {most}: expected at least 4 points."
        raise ValueError(msg)
    if len(points) <= most:
        return list(points)
    (start, base), (end, done) = points[0], points[-1]
    duration, progress = (end - start) or 1.0, (done - base) or 1.0
    lengths = [(time - start) / duration + (fraction - base) / progress for time, fraction in points]
    longest = max(range(1, len(points)), key=lambda n: points[n][0] - points[n - 1][0])
    steps = most - 3  # in addition to the last point and both ends of the longest gap
    indices = {0, len(points) - 1, longest - 1, longest}
    indices.update(
        min(len(points) - 1, bisect_left(lengths, lengths[-1] * n / steps)) for n in range(1, steps)
    )
    return [points[n] for n in sorted(indices)]


Points: TypeAlias = "Sequence[tuple[float, float]]"
"""(elapsed seconds, fraction done 0 to 1), ascending in time."""


MAX_EVEN_POINTS: Final = 128
"""Maximum number of evenly spaced points that an estimate uses, which bounds its cost."""


MAX_LATEST_POINTS: Final = 16
"""Number of latest points that an estimate uses in addition."""


MAX_SECONDS: Final = 1e15
"""Maximum time, in seconds (thirty million years). It keeps sums and quotients finite."""


ROUNDING_TOLERANCE: Final = 1e-9
"""Tolerance for a fraction above 1, or for a time after the end, for rounding errors."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A run as ascending times and fractions at its advances, with each fraction once.

    ``duration`` is its length in seconds so far. ``gap`` is the longest time without an advance.
    ``moments`` are running sums of seconds x twice the fraction done since the base. From them
    :mod:`~otel_progress.eta.predictors` computes the rate of any part.
    """

    duration: float
    times: Sequence[float]
    fractions: Sequence[float]
    moments: Sequence[float]
    gap: float

    def index_at(self, time: float) -> int:
        """Return the index of the last advance at or before ``time``, at least 0."""
        return max(0, bisect_right(self.times, time) - 1)


def interpolate_time(times: Sequence[float], fractions: Sequence[float], fraction: float) -> float:
    """Return the time at which an ascending curve reaches ``fraction``."""
    after = bisect_left(fractions, fraction)
    if after == 0:
        return times[0]
    if after == len(fractions):
        return times[-1]
    earlier, done, later = times[after - 1], fractions[after - 1], times[after]
    # Why min: a rounding error must not move the time past the end of the run.
    return min(later, earlier + (later - earlier) * (fraction - done) / (fractions[after] - done))


def build_curve(
    duration: float, times: Sequence[float], fractions: Sequence[float], gap: float | None = None
) -> Curve:
    """Return the curve through ascending points.

    ``gap`` overrides the gap of the points.
    """
    gaps = list(map(sub, times[1:], times))
    base = fractions[0]
    done = [fraction - base for fraction in fractions] if base else fractions
    sums = map(add, done[1:], done)
    moments = [0.0, *accumulate(map(mul, gaps, sums))]
    return Curve(duration, times, fractions, moments, max(gaps, default=0.0) if gap is None else gap)


def parse_points(points: Points, name: str = "points") -> tuple[list[float], list[float]]:
    """Return the times and fractions of the advances, starting with the base.

    The first point is the base. Unless a point at 0 seconds defines it, it is (0, 0). A run
    resumed half way starts at (0.0, 0.5). A decreasing fraction means that the total grew, so
    earlier fractions are rescaled to the new total. Points without an advance are dropped.

    Raises:
        RejectedValueError: A point is not two finite numbers. Or times decrease or are negative. Or
            a fraction is not between 0 and 1.

    """
    if len(points) > MAX_EVEN_POINTS + MAX_LATEST_POINTS:
        step = -(-len(points) // MAX_EVEN_POINTS)
        points = [*points[:-MAX_LATEST_POINTS:step], *points[-MAX_LATEST_POINTS:]]
    if not points:
        return [], []
    times, fractions = _split_points(points, name)
    _check_points(times, fractions, name)
    if sorted(fractions) != fractions:
        _rescale_fractions(fractions)
    if times[0] > 0.0:
        times.insert(0, 0.0)
        fractions.insert(0, 0.0)
    elif len(times) > 1 and times[1] == 0.0:
        # Work done at 0 seconds took no time, so only the last of these points is a base.
        base = bisect_right(times, 0.0) - 1
        del times[:base], fractions[:base]
    if len(set(fractions)) < len(fractions):
        times, fractions = _drop_repeated_fractions(times, fractions)
    return times, fractions


def _split_points(points: Points, name: str) -> tuple[list[float], list[float]]:
    """Return the times and the fractions of points. Raises RejectedValueError."""
    try:
        columns = list(zip(*points, strict=True))
        times, fractions = map(list, columns)
        sums = sum(times), sum(fractions)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"Invalid {name}: expected pairs of numbers (elapsed seconds, fraction done); {error}."
        raise RejectedValueError(msg) from None
    if not all(map(isfinite, sums)) and not all(isfinite(value) for pair in points for value in pair):
        bad = next((n for n, pair in enumerate(points) if not all(map(isfinite, pair))), 0)
        msg = f"Invalid {name}[{bad}] {points[bad]}: expected finite numbers."
        raise RejectedValueError(msg)
    return times, fractions


def is_seconds(value: float) -> bool:
    """Return whether ``value`` is a plausible number of seconds."""
    return 0.0 <= value <= MAX_SECONDS


def _check_points(times: list[float], fractions: list[float], name: str) -> None:
    if min(fractions) < 0.0 or max(fractions) > 1.0 + ROUNDING_TOLERANCE:
        bad = next(n for n, value in enumerate(fractions) if not 0.0 <= value <= 1.0 + ROUNDING_TOLERANCE)
        msg = f"Invalid {name}[{bad}], fraction {fractions[bad]}: expected 0 to 1."
        raise RejectedValueError(msg)
    if times[-1] > MAX_SECONDS:
        msg = f"Invalid {name}[{len(times) - 1}], time {times[-1]}: expected at most {MAX_SECONDS:g} seconds."
        raise RejectedValueError(msg)
    if times[0] < 0.0 or sorted(times) != times:
        bad = next(n for n, time in enumerate(times) if time < (times[n - 1] if n else 0.0))
        minimum = times[bad - 1] if bad else 0.0
        msg = f"Invalid {name}[{bad}], time {times[bad]}: expected ascending times, so at least {minimum}."
        raise RejectedValueError(msg)


def _rescale_fractions(fractions: list[float]) -> None:
    """Make the fractions ascend in place.

    Fractions before a decrease are scaled down to it.
    """
    scale = 1.0
    for n in range(len(fractions) - 2, -1, -1):
        fraction, following = fractions[n], fractions[n + 1]
        fractions[n] = fraction * scale
        if fractions[n] > following:
            scale = following / fraction
            fractions[n] = following


def _drop_repeated_fractions(times: list[float], fractions: list[float]) -> tuple[list[float], list[float]]:
    """Return the first point of each fraction."""
    first_times = dict(zip(reversed(fractions), reversed(times), strict=True))
    distinct = sorted(first_times)
    return [first_times[fraction] for fraction in distinct], distinct
