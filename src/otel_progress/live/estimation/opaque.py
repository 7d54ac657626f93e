"""opaque."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from otel_progress.live.opaque import Opaque
from otel_progress.model import Number
from otel_progress.quantiles import interpolated_quantile

ENOUGH_RUNS: Final = 3
"""Past runs that can overrule what the caller expects."""


AGREEMENT: Final = 0.25
"""Past runs agree when the middle half of their durations spans no more than this part of the median."""


def expected_duration(
    step: Opaque, durations: Sequence[float], worked: float, total: Number | None
) -> float | None:
    """Return how long a step is expected to take, in seconds; None when nothing is known.

    ``durations`` are those of past runs of the level. They say what a step takes that is the whole level (their median), that is one
    unit of ``total`` (its part), or that is the rest of a level which had ``worked`` seconds behind it. What the caller expects comes
    first, unless the step is the whole level and at least three past runs agree among themselves: then they know better.
    """
    known = [duration for duration in durations if duration > 0.0]
    if step.given is not None and not (step.whole and _agree(known)):
        return step.given
    if not known:
        return None
    middle = interpolated_quantile(known, 0.5)
    if step.whole or total:
        return middle / total if total and not step.whole else middle
    rest = [duration - worked for duration in known if duration > worked]
    return interpolated_quantile(rest, 0.5) if rest else None


def _agree(durations: Sequence[float]) -> bool:
    if len(durations) < ENOUGH_RUNS:
        return False
    return interpolated_quantile(durations, 0.75) - interpolated_quantile(
        durations, 0.25
    ) <= AGREEMENT * interpolated_quantile(durations, 0.5)
