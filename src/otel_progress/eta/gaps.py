"""Gaps between advances: which are pauses that say nothing of the pace, and how long the next may last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import sub
from typing import Final

from otel_progress.eta.curves import Curve, curve, time_at
from otel_progress.eta.predictors import TINY
from otel_progress.quantiles import median

FAR: Final = 5.0
"""A gap so many times as long as any usual one is no pace but a pause, unless past runs made it at the same place."""


RARE: Final = 10
"""At most one gap in so many can be a pause: what happens more often is how the work goes."""


STALLED: Final = 3.0
"""The longest gap to expect is so many times the longest one known: beyond it a run counts as stalled."""


def without_pauses(run: Curve, history: Sequence[Curve]) -> Curve:
    """Return the run as it would be had its pauses not been: what they took is no pace. A step with one lasts as long as it should."""
    gaps = list(map(sub, run.times[1:], run.times))
    usual = _usual(gaps)
    if usual is None or usual >= run.gap:
        return run
    for n, gap in enumerate(gaps):
        if gap > usual:
            expected = _expected(run, n, history)
            if gap > FAR * max(usual, expected):
                gaps[n] = min(usual, expected)
    times = list(accumulate(gaps, initial=run.times[0]))
    return curve(run.duration - (run.times[-1] - times[-1]), times, run.fractions)


def _usual(gaps: Sequence[float]) -> float | None:
    """Return the longest gap that is not far beyond all shorter ones; None with too few to tell."""
    rare = (len(gaps) + RARE - 1) // RARE
    if len(gaps) < 3:
        return None
    longest = sorted(gaps)[-rare - 1 :]
    for shorter, longer in pairwise(longest):
        if longer > FAR * shorter > 0.0:
            return shorter
    return longest[-1]


def _expected(run: Curve, n: int, history: Sequence[Curve]) -> float:
    """Return how long the step ``n`` should have taken: as long as past runs took for it, or else at the median pace of the others."""
    if not history:
        paces = [
            gap / max(done, TINY)
            for gap, done in zip(
                map(sub, run.times[1:], run.times), map(sub, run.fractions[1:], run.fractions), strict=True
            )
        ]
        return median(paces) * (run.fractions[n + 1] - run.fractions[n])
    start, end, last = run.fractions[n], run.fractions[n + 1], run.fractions[-1]
    rest = run.times[-1] - run.times[0] - (run.times[n + 1] - run.times[n])
    expected = []
    for past in history:
        base, before, after, until = (
            time_at(past.times, past.fractions, at) for at in (run.fractions[0], start, end, last)
        )
        step = after - before
        others = until - base - step
        expected.append(max(step, step * rest / others) if others > 0.0 else step)
    return median(expected)
