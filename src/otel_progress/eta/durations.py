"""What is left of a run of which only past durations are known: they alone answer, given that it has lasted so long already."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from otel_progress.eta.backtest import MIN_RUNS
from otel_progress.eta.gaps import STALLED
from otel_progress.model import Eta, EtaBasis
from otel_progress.quantiles import expected_rank_quantile


def from_durations(
    durations: Sequence[float], elapsed: float, confidence: float, basis: EtaBasis = "durations"
) -> Eta:
    """Return the median of those ``durations`` (ascending, seconds) that are longer than ``elapsed``, less that.

    Never less than the mean distance between them: where they lie apart, the next may lie further. The interval holds their quantiles.
    It counts down until the next of them would be over, and past the longest it holds; at three times that it is stalled.
    """
    runs = len(durations)
    if not runs:
        return Eta(None, None, None, "unknown", "none", 0, elapsed)
    longest = durations[-1]
    least = (longest - durations[0]) / max(1, runs - 1)
    longer = durations[bisect_right(durations, elapsed) :]
    if not longer:
        return Eta(least, None, None, "holding", basis, runs, longest, 0.0, (STALLED - 1.0) * longest).at(
            elapsed
        )
    remaining = max(least, expected_rank_quantile(longer, 0.5) - elapsed)
    low = high = None
    if runs >= MIN_RUNS:
        low = max(0.0, min(remaining, expected_rank_quantile(longer, (1.0 - confidence) / 2) - elapsed))
        high = max(remaining, expected_rank_quantile(longer, (1.0 + confidence) / 2) - elapsed)
    until = min(longer[0] - elapsed, remaining - least)
    return Eta(remaining, low, high, "estimated", basis, runs, elapsed, until, STALLED * longest - elapsed)
