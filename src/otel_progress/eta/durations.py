"""Estimate from past durations only, given the time that a run has already lasted."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from otel_progress.eta.backtest import MIN_RUNS
from otel_progress.eta.gaps import STALL_FACTOR
from otel_progress.model import Eta, EtaBasis
from otel_progress.quantiles import expected_rank_quantile


def estimate_from_durations(
    durations: Sequence[float], elapsed: float, confidence: float, basis: EtaBasis = "durations"
) -> Eta:
    """Return the median of the longer ``durations``, minus ``elapsed``.

    ``durations`` are ascending, in seconds. The estimate is at least their mean distance, because
    the next one may be that much longer. The interval consists of their quantiles. The estimate
    counts down until the next of them is reached. Past the longest it holds. At ``STALL_FACTOR``
    times the longest the run counts as stalled.
    """
    runs = len(durations)
    if not runs:
        return Eta(None, None, None, "unknown", "none", 0, elapsed)
    longest = durations[-1]
    minimum = (longest - durations[0]) / max(1, runs - 1)
    longer = durations[bisect_right(durations, elapsed) :]
    if not longer:
        stalls_after_s = (STALL_FACTOR - 1.0) * longest
        eta = Eta(minimum, None, None, "holding", basis, runs, longest, 0.0, stalls_after_s)
        return eta.at(elapsed)
    remaining = max(minimum, expected_rank_quantile(longer, 0.5) - elapsed)
    low = high = None
    if runs >= MIN_RUNS:
        low = max(0.0, min(remaining, expected_rank_quantile(longer, (1.0 - confidence) / 2) - elapsed))
        high = max(remaining, expected_rank_quantile(longer, (1.0 + confidence) / 2) - elapsed)
    counts_down_s = min(longer[0] - elapsed, remaining - minimum)
    stalls_after_s = STALL_FACTOR * longest - elapsed
    return Eta(remaining, low, high, "estimated", basis, runs, elapsed, counts_down_s, stalls_after_s)
