"""Quantiles of a few numbers, without ``statistics``, which takes longer to import than all of this package."""

from __future__ import annotations

from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """Return the median; several times as fast as that of ``statistics``, of which every estimate needs a dozen."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def interpolated_quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of the values lie, interpolated linearly. ``values`` must not be empty."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def expected_rank_quantile(ordered: Sequence[float], level: float) -> float:
    """Return the quantile of ascending values at ``level`` (0 to 1), at level x (n + 1) - 1 by linear interpolation, within the values."""
    place: float = min(max(level * (len(ordered) + 1) - 1.0, 0.0), len(ordered) - 1.0)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
