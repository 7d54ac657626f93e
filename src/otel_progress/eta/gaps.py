"""Gaps between advances: detection of pauses and of stalled runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import sub
from typing import Final

from otel_progress.eta.curves import Curve, build_curve, interpolate_time
from otel_progress.eta.predictors import MIN_ADVANCE
from otel_progress.quantiles import median

PAUSE_FACTOR: Final = 5.0
"""Minimum ratio of a pause to a usual gap. A gap that past runs have as well is no pause."""


MIN_GAPS_PER_PAUSE: Final = 10
"""Number of gaps per possible pause. More frequent long gaps belong to the rate."""


STALL_FACTOR: Final = 3.0
"""Factor of the longest known gap after which a run counts as stalled."""


def remove_pauses(run: Curve, history: Sequence[Curve]) -> Curve:
    """Return the run without its pauses.

    A step with a pause gets its expected duration.
    """
    gaps = list(map(sub, run.times[1:], run.times))
    usual = _find_usual_gap(gaps)
    if usual is None or usual >= run.gap:
        return run
    for n, gap in enumerate(gaps):
        if gap > usual:
            expected = _predict_gap(run, n, history)
            if gap > PAUSE_FACTOR * max(usual, expected):
                gaps[n] = min(usual, expected)
    times = list(accumulate(gaps, initial=run.times[0]))
    return build_curve(run.duration - (run.times[-1] - times[-1]), times, run.fractions)


def _find_usual_gap(gaps: Sequence[float]) -> float | None:
    """Return the longest gap that is not far above all shorter ones.

    Return None with fewer than three gaps.
    """
    rare = (len(gaps) + MIN_GAPS_PER_PAUSE - 1) // MIN_GAPS_PER_PAUSE
    if len(gaps) < 3:
        return None
    longest = sorted(gaps)[-rare - 1 :]
    for shorter, longer in pairwise(longest):
        if longer > PAUSE_FACTOR * shorter > 0.0:
            return shorter
    return longest[-1]


def _predict_gap(run: Curve, n: int, history: Sequence[Curve]) -> float:
    """Return the expected duration of step ``n``.

    It is that in past runs, and without any it follows from the median rate.
    """
    if not history:
        steps = zip(
            map(sub, run.times[1:], run.times), map(sub, run.fractions[1:], run.fractions), strict=True
        )
        rate = median([gap / max(done, MIN_ADVANCE) for gap, done in steps])
        return rate * (run.fractions[n + 1] - run.fractions[n])
    start, end, last = run.fractions[n], run.fractions[n + 1], run.fractions[-1]
    rest = run.times[-1] - run.times[0] - (run.times[n + 1] - run.times[n])
    expected = []
    for past in history:
        base, before, after, until = (
            interpolate_time(past.times, past.fractions, at) for at in (run.fractions[0], start, end, last)
        )
        step = after - before
        others = until - base - step
        expected.append(max(step, step * rest / others) if others > 0.0 else step)
    return median(expected)
