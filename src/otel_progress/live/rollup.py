"""The pure roll-up: how a level's count and ratio follow from its own counting, its children and its stages.

* With declared stages: ratio = Σ weightᵢ·ratioᵢ / Σ weightᵢ, where a completed or skipped stage is done
  and a failed or cancelled one counts as far as it came.
* Else ratio = current / total, where current is what the level counted itself or, when it counted nothing, its children that are done
  (completed, failed or skipped; each by its weight, one unless said otherwise). To the latter are added the partial ratios of running
  children, and of cancelled ones: they are not done, and count as far as they came.
* An unknown total is no ratio: never 0, never NaN. A level that completed is done: 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from otel_progress.model import Number, Status

_ROUNDING = 1e-9


def ratio_of_stages(stages: Iterable[tuple[float, Status, float | None]]) -> float | None:
    """Return the weighted ratio of (weight, status, ratio) stages; None when they weigh nothing."""
    parts = [(weight, weight * _share(status, ratio)) for weight, status, ratio in stages]
    whole = math.fsum(weight for weight, _ in parts)
    return min(1.0, math.fsum(done for _, done in parts) / whole) if whole > 0 else None


def _share(status: Status, ratio: float | None) -> float:
    if status is Status.COMPLETED or status is Status.SKIPPED:
        return 1.0
    return ratio or 0.0


def exceeds_total(current: Number, total: Number) -> bool:
    """Tell whether ``current`` is more than ``total``, by more than the rounding of binary fractions that were added up."""
    return current > total and not (type(current) is float and current - total <= _ROUNDING * total)


def ratio_of_count(current: Number, total: Number | None, partial: float = 0.0) -> float | None:
    """Return (current + partial) / total within 0 to 1; None when the total is unknown or there is nothing to do."""
    if total is None or total <= 0:
        return None
    return float(min(1.0, max(0.0, (current + partial) / total)))
