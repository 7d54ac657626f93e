"""Remaining time from this run's own pace: the mean speed of the most recent half of what has been seen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise


def remaining_seconds(points: Sequence[tuple[float, float]], elapsed: float) -> float | None:
    """Return the seconds still needed, or None while nothing can be said.

    ``points`` are (elapsed seconds, ratio 0 to 1) of this run, ascending in time; ``elapsed`` is now. The speed is taken over the
    later half of the work done, so a slow start is forgotten and a change of pace is followed without jumping at each step.
    After a point the estimate counts down for as long as the longest step of that half took, and then holds: it never falls to
    zero while there is work left.
    """
    if len(points) < 2:
        return None
    at, ratio = points[-1]
    if ratio >= 1.0:
        return 0.0
    half = min(bisect_left(points, ratio / 2, key=lambda point: point[1]), len(points) - 2)
    since, done = points[half]
    if ratio <= done or at <= since:
        return None
    remaining = (1.0 - ratio) * (at - since) / (ratio - done)
    longest = max(later - earlier for (earlier, _), (later, _) in pairwise(points[half:]))
    waited = min(elapsed - at, longest)
    return remaining - waited if remaining > waited else remaining / 2
