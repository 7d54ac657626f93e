"""A long curve as a short one of the same shape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

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
    kept.update(min(len(points) - 1, bisect_left(lengths, lengths[-1] * n / wanted)) for n in range(1, wanted))
    return [points[n] for n in sorted(kept)]
