"""Prediction intervals from the errors of the backtest at the same progress."""

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

NEIGHBOURHOOD: Final = 0.1
"""Distance, as a share of the run, within which residuals are used."""


SHRINKAGE_RUNS: Final = 8
"""Weight of the factor 1 in the calibration, in past runs. A few runs prove little."""


CONFIDENCE_MARGIN: Final = 1e-6
"""Minimum distance of a confidence from 0 and 1. Beyond it the quantiles overflow."""


MISS_SCORE: Final = 5.0
"""Score of an error if no error was expected."""


def compute_half_width(residuals: Residuals, blend: Blend, runs: int, confidence: float) -> float | None:
    """Return half the width of the interval around ``blend``, in seconds.

    Return None with fewer than ``MIN_RUNS`` runs. It is the quantile of the residuals near this
    share of the run, times the spread of the blend, times a factor for few runs. Errors within one
    run are similar, so the number of runs counts.
    """
    if runs < MIN_RUNS or not residuals.shares:
        return None
    first, last = _find_neighbours(residuals.shares, blend.share)
    scores = residuals.scores[first:last] or residuals.scores
    return (
        expected_rank_quantile(sorted(scores), confidence)
        * compute_small_sample_factor(runs, confidence)
        * blend.spread
        * blend.whole
    )


def calibrate_width(residuals: Residuals, runs: int, confidence: float) -> float:
    """Return the factor by which intervals would have covered past runs as requested.

    It replays the runs in order, each with the residuals of earlier runs, and returns the quantile
    of error / half width. It is above 1 if the intervals were too narrow. It is shrunk towards 1
    if only a few runs can be replayed.
    """
    ratios = []
    for share, score, run in zip(residuals.shares, residuals.scores, residuals.runs, strict=True):
        if run >= MIN_RUNS:
            first, last = _find_neighbours(residuals.shares, share)
            neighbours = zip(residuals.scores[first:last], residuals.runs[first:last], strict=True)
            earlier = sorted(other for other, other_run in neighbours if other_run < run)
            width = 0.0
            if earlier:
                width = expected_rank_quantile(earlier, confidence) * compute_small_sample_factor(
                    run, confidence
                )
            ratios.append(score / width if width > 0.0 else MISS_SCORE if score > 0.0 else 1.0)
    if not ratios:
        return 1.0
    replayed = runs - MIN_RUNS
    factor: float = max(1.0 / MISS_SCORE, expected_rank_quantile(sorted(ratios), confidence)) ** (
        replayed / (replayed + SHRINKAGE_RUNS)
    )
    return factor


def _find_neighbours(shares: Sequence[float], share: float) -> tuple[int, int]:
    return bisect_left(shares, share - NEIGHBOURHOOD), bisect_right(shares, share + NEIGHBOURHOOD)


@lru_cache(maxsize=256)
def compute_small_sample_factor(runs: int, confidence: float) -> float:
    """Return the factor that widens an interval of few ``runs``.

    It is 1.39 for 3 runs at a confidence of 0.8, and 1.03 for 20. It is Student's two-sided
    quantile at ``runs`` - 1 degrees of freedom over the normal one, as an expansion in 1 / degrees
    of freedom (Abramowitz and Stegun, 26.7.5). For two degrees the exact formula is used. A
    prediction rests on one run more than the residuals do. The variance of a mean of n against
    that of n - 1 makes it narrower by sqrt((1 + 1/n) / (1 + 1/(n - 1))).
    """
    confidence = min(max(confidence, CONFIDENCE_MARGIN), 1.0 - CONFIDENCE_MARGIN)
    with defer_fork():
        from statistics import NormalDist  # takes milliseconds, and is needed only with a history

    z = NormalDist().inv_cdf((1.0 + confidence) / 2)
    degrees = runs - 1
    narrowing = sqrt(1.0 - 1.0 / runs**2)
    if degrees <= 2:
        return narrowing * confidence * sqrt(2.0 / (1.0 - confidence * confidence)) / z
    first = (z**2 + 1.0) / 4
    second = (5 * z**4 + 16 * z**2 + 3) / 96
    third = (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / 384
    return narrowing * (1.0 + first / degrees + second / degrees**2 + third / degrees**3)
