"""Quantiles and median of a few numbers.

The module ``statistics`` takes longer to import than this package.
"""

from __future__ import annotations

from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """Return the median of at least one value.

    Why not ``statistics.median``: an estimate needs a dozen medians, and this one is several times
    faster.
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def interpolated_quantile(values: Sequence[float], share: float) -> float:
    """Return the linearly interpolated quantile (type 7) of at least one value.

    ``share`` (0 to 1) is the fraction of values below the result.
    """
    ordered = sorted(values)
    rank = share * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def expected_rank_quantile(ordered: Sequence[float], level: float) -> float:
    """Return the quantile (type 6) of ascending values, within their range.

    ``level`` is 0 to 1. The result is interpolated linearly at the rank level x (n + 1) - 1.
    """
    rank: float = min(max(level * (len(ordered) + 1) - 1.0, 0.0), len(ordered) - 1.0)
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)
