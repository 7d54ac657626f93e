"""How far off a prediction may be: from the errors made at the same progress when past runs were left out in turn."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from typing import Final

from otel_progress.eta.backtest import MIN_RUNS, Residuals
from otel_progress.eta.ensemble import Blend
from otel_progress.fork import defer_fork
from otel_progress.quantiles import expected_rank_quantile

NEAR: Final = 0.1
"""Residuals made at most so much of the run before or after are of the same bucket."""


SHRINKAGE_RUNS: Final = 8
"""The replay changes the width as if so many more past runs had been covered as asked: a few prove little, and no more are kept."""


CONFIDENCE_MARGIN: Final = 1e-6
"""No confidence counts as nearer than this to 0 or 1: what lies beyond cannot be learned, and its quantiles overflow."""


MISS_SCORE: Final = 5.0
"""What counts as the score of an error where none at all was expected."""


def half_width(residuals: Residuals, blend: Blend, runs: int, confidence: float) -> float | None:
    """Return the seconds by which the end may come earlier or later than ``blend`` says; None with fewer than three ``runs``.

    It is the quantile of the residuals near this share of the run, times how much worse this run's looks back went, times Student's
    quantile over the normal one for so few runs: errors within one run are alike, so what counts is how many runs there were.
    """
    if runs < MIN_RUNS or not residuals.shares:
        return None
    first, last = _near(residuals.shares, blend.share)
    scores = residuals.scores[first:last] or residuals.scores
    return (
        expected_rank_quantile(sorted(scores), confidence)
        * small_sample_factor(runs, confidence)
        * blend.spread
        * blend.whole
    )


def calibrated(residuals: Residuals, runs: int, confidence: float) -> float:
    """Return by what to multiply half widths for the intervals of past runs to have covered as asked.

    Replays the runs in order, each with the residuals of those before it, and takes the quantile of error / half width: above 1 when the
    intervals were too narrow. Drawn towards 1 while only a few could be replayed.
    """
    found = []
    for share, score, run in zip(residuals.shares, residuals.scores, residuals.runs, strict=True):
        if run >= MIN_RUNS:
            first, last = _near(residuals.shares, share)
            before = [
                s
                for s, n in zip(residuals.scores[first:last], residuals.runs[first:last], strict=True)
                if n < run
            ]
            wide = (
                expected_rank_quantile(sorted(before), confidence) * small_sample_factor(run, confidence)
                if before
                else 0.0
            )
            found.append(score / wide if wide > 0.0 else MISS_SCORE if score > 0.0 else 1.0)
    if not found:
        return 1.0
    replayed = runs - MIN_RUNS
    factor: float = max(1.0 / MISS_SCORE, expected_rank_quantile(sorted(found), confidence)) ** (
        replayed / (replayed + SHRINKAGE_RUNS)
    )
    return factor


def _near(shares: Sequence[float], share: float) -> tuple[int, int]:
    return bisect_left(shares, share - NEAR), bisect_right(shares, share + NEAR)


@lru_cache(maxsize=256)
def small_sample_factor(runs: int, confidence: float) -> float:
    """Return by what to widen for there are only so few ``runs``: 1.39 for 3 at a confidence of 0.8, 1.03 for 20.

    It is Student's two-sided quantile at ``runs`` - 1 degrees of freedom over the normal one: its expansion in 1 / degrees of freedom
    (Abramowitz and Stegun, 26.7.5), and the exact formula for two degrees. And as a prediction rests on one run more than
    the residuals do, the variance of a mean of n against that of n - 1 makes it narrower by sqrt((1 + 1/n) / (1 + 1/(n - 1))).
    """
    confidence = min(max(confidence, CONFIDENCE_MARGIN), 1.0 - CONFIDENCE_MARGIN)
    with defer_fork():
        from statistics import NormalDist  # some milliseconds, and only where there is a history

    z = NormalDist().inv_cdf((1.0 + confidence) / 2)
    degrees = runs - 1
    more = sqrt(1.0 - 1.0 / runs**2)
    if degrees <= 2:
        return more * confidence * sqrt(2.0 / (1.0 - confidence * confidence)) / z
    first = (z**2 + 1.0) / 4
    second = (5 * z**4 + 16 * z**2 + 3) / 96
    third = (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / 384
    return more * (1.0 + first / degrees + second / degrees**2 + third / degrees**3)
