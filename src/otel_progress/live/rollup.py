"""Ratio of a level from its own count, its children and its stages.

* With declared stages, the ratio is Σ weightᵢ·ratioᵢ / Σ weightᵢ. A completed or skipped stage has
  the ratio 1. A failed or cancelled stage has its last ratio.
* Otherwise, the ratio is current / total. ``current`` is the level's own count. When it counted
  nothing, ``current`` is the weight of its completed, failed and skipped children. The default
  weight is 1. The weighted ratios of running and cancelled children are added.
* With an unknown total, the ratio is None, never 0 or NaN.
* The ratio of a completed level is 1, unless it ended early: then it is current / total. The parent
  of a level that ended early counts it as done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from otel_progress.model import Number, Status

_ROUNDING = 1e-9


def compute_stages_ratio(stages: Iterable[tuple[float, Status, float | None]]) -> float | None:
    """Return the weighted ratio of stages, or None when their total weight is 0.

    Each stage is a tuple of weight, status and ratio.
    """
    parts = [(weight, weight * _get_stage_ratio(status, ratio)) for weight, status, ratio in stages]
    total_weight = math.fsum(weight for weight, _ in parts)
    return min(1.0, math.fsum(done for _, done in parts) / total_weight) if total_weight > 0 else None


def _get_stage_ratio(status: Status, ratio: float | None) -> float:
    if status is Status.COMPLETED or status is Status.SKIPPED:
        return 1.0
    return ratio or 0.0


def exceeds_total(current: Number, total: Number) -> bool:
    """Return True when ``current`` exceeds ``total`` by more than rounding errors."""
    return current > total and not (type(current) is float and current - total <= _ROUNDING * total)


def compute_count_ratio(current: Number, total: Number | None, partial: float = 0.0) -> float | None:
    """Return (current + partial) / total, at most 1, or None without a total."""
    if total is None or total <= 0:
        return None
    return float(min(1.0, max(0.0, (current + partial) / total)))
