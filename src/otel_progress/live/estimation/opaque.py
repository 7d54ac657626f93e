"""Expected duration of an opaque step, from past runs and from the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from otel_progress.live.opaque import Opaque
from otel_progress.model import Number
from otel_progress.quantiles import interpolated_quantile

MIN_AGREEING_RUNS: Final = 3
"""Past runs needed to override the duration that the caller expects."""


MAX_SPREAD_RATIO: Final = 0.25
"""Past runs agree when their interquartile range is at most this fraction of their median."""


def compute_expected_duration(
    step: Opaque, durations: Sequence[float], active_s: float, total: Number | None
) -> float | None:
    """Return the expected duration of a step in seconds, or None when it is unknown.

    ``durations`` are the durations of past runs of the level. They predict a step that is the whole level (their median),
    one unit of ``total`` (a fraction of it), or the rest of a level after ``active_s`` seconds. The caller's expectation
    wins, unless the step is the whole level and at least three past runs agree.
    """
    known = [duration for duration in durations if duration > 0.0]
    if step.given is not None and not (step.is_whole_level and _has_agreement(known)):
        return step.given
    if not known:
        return None
    median = interpolated_quantile(known, 0.5)
    if step.is_whole_level:
        return median
    if total:
        return median / total
    remaining = [duration - active_s for duration in known if duration > active_s]
    return interpolated_quantile(remaining, 0.5) if remaining else None


def _has_agreement(durations: Sequence[float]) -> bool:
    if len(durations) < MIN_AGREEING_RUNS:
        return False
    spread = interpolated_quantile(durations, 0.75) - interpolated_quantile(durations, 0.25)
    return spread <= MAX_SPREAD_RATIO * interpolated_quantile(durations, 0.5)
