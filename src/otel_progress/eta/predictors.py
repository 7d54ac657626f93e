"""Predictors of the remaining time: past runs, and the run's own rate.

A rate is in seconds per unit of fraction. The own rate is that of the recent half of the work, in
which later work has more weight.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import sub, truediv
from typing import Final, TypeAlias

from otel_progress.eta.curves import ROUNDING_TOLERANCE, Curve
from otel_progress.quantiles import median

RATE_SHARE: Final = 0.5
"""Recent share of the work from which the own rate is computed."""


ENOUGH_STEPS: Final = 8
"""Number of steps from which their rate is used as it is. Before, one slow step would dominate."""


MIN_WORK: Final = 1e-6
"""Minimum work for a weighted mean. Below it, differences of sums are rounding errors."""


MIN_ADVANCE: Final = 1e-12
"""Minimum size of an advance, so that a division does not overflow."""


def find_start_index(run: Curve, last: int, share: float) -> int:
    """Return the index where the latest ``share`` of the work up to ``last`` starts.

    It is less than ``last`` unless ``last`` is 0.
    """
    fractions = run.fractions
    done = fractions[last] - fractions[0]
    return min(bisect_left(fractions, fractions[last] - share * done), max(0, last - 1))


def compute_recent_rate(run: Curve, last: int) -> float | None:
    """Return the recent rate at ``last``, or None before the first advance.

    With few steps, only a part of its excess over the median rate counts: a seventh with two steps,
    all of it from eight on. A warm-up or a single slow step is not representative.
    """
    if last < 1:
        return None
    recent = _compute_weighted_rate(run, last)
    if 1 < last < ENOUGH_STEPS:
        middle = _compute_median_rate(run, last)
        if recent > middle:
            return middle + (recent - middle) * (last - 1) / (ENOUGH_STEPS - 1)
    return recent


def _compute_weighted_rate(run: Curve, last: int) -> float:
    """Return the weighted mean rate of the recent half of the work.

    The weight of the fraction f is f - a, where a is the start of that half. So a slow first step
    soon has no weight, and a change of the rate is followed smoothly. The weighted sum of the
    seconds comes from the moments of the curve. The integral of the weights is (b - a)^2 / 2.
    """
    first = find_start_index(run, last, RATE_SHARE)
    done, duration = run.fractions[last] - run.fractions[first], run.times[last] - run.times[first]
    if done < MIN_WORK:
        return duration / max(done, MIN_ADVANCE)
    offset = 2 * (run.fractions[first] - run.fractions[0]) * duration
    weighted = run.moments[last] - run.moments[first] - offset
    return max(0.0, weighted) / (done * done)


def _compute_median_rate(run: Curve, last: int) -> float:
    """Return the median rate: half of the work was done at this rate or faster."""
    times, fractions = run.times, run.fractions
    sizes = [fractions[n + 1] - fractions[n] for n in range(last)]
    rates = sorted(
        [((times[n + 1] - times[n]) / max(size, MIN_ADVANCE), size) for n, size in enumerate(sizes)]
    )
    half = (RATE_SHARE - ROUNDING_TOLERANCE) * (fractions[last] - fractions[0])
    done = list(accumulate(size for _, size in rates))
    return rates[bisect_left(done, half)][0]


PREDICTOR_COUNT: Final = 4
"""Past runs scaled by the whole rate, by the recent rate, unscaled, and the own rate."""


OWN_RATE: Final = 3
"""Index of the own rate, the only predictor that needs no history."""


RECENT_SHARE: Final = 0.25
"""Latest share of the work that defines the recent rate for scaling past runs."""


LOOKBACK_MARKS: Final = (0.3, 0.6, 0.85)
"""Shares of the elapsed time at which earlier forecasts of the time until now are compared."""


MAX_RELATIVE_ERROR: Final = 100.0
"""Maximum relative error. Larger errors count as this one."""


MIN_DURATION_S: Final = 1e-9
"""Minimum duration of a part of a past run for a rate, in seconds."""


PredictorValues: TypeAlias = "tuple[float | None, float | None, float | None, float | None]"
"""One number per predictor, or None without a prediction."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predictions at ``now`` seconds.

    ``spans`` are the seconds from there to the end. ``errors`` are the relative errors of the
    lookbacks, which predict the time until now: from the start and from each mark, latest last.
    """

    now: float
    spans: PredictorValues
    errors: Sequence[PredictorValues]


class HistoryAlignment:
    """Times at which past runs had the progress of this run, cached per advance."""

    __slots__ = ("_pasts", "_reached", "durations", "run")

    def __init__(self, run: Curve, history: Sequence[Curve]) -> None:
        """Skip past runs that started further on. A resumed run has no earlier part."""
        pasts = [past for past in history if past.fractions[0] <= run.fractions[0]]
        self.run = run
        self.durations = [past.duration for past in pasts]
        self._pasts = [(past.times, past.fractions) for past in pasts]
        self._reached: dict[int, list[float]] = {}

    def times_reached(self, index: int) -> list[float]:
        """Return the time of each past run at the progress of the advance ``index``."""
        reached = self._reached.get(index)
        if reached is None:
            fraction = self.run.fractions[index]
            reached = self._reached[index] = []
            # Why interpolate_time is inlined: it takes most of the time of an estimate.
            for times, fractions in self._pasts:
                after = bisect_left(fractions, fraction)
                if after == 0 or after == len(fractions):
                    reached.append(times[after and -1])
                else:
                    earlier, done, later = times[after - 1], fractions[after - 1], times[after]
                    # It may exceed the end by a rounding error. build_forecast limits the results.
                    reached.append(
                        earlier + (later - earlier) * (fraction - done) / (fractions[after] - done)
                    )
        return reached

    def predict_next_gap(self, until: float | None) -> tuple[float, float]:
        """Return the expected and the longest time until the next advance.

        Both are in seconds, at this run's rate.

        The next advance is due when past runs first advanced to ``until`` (None: advanced at all).
        A straight line would ignore long gaps of past runs. With other steps than theirs, this run
        may be within such a gap. So the longest time is the whole gap.
        """
        last = len(self.run.times) - 1
        reached = self.times_reached(last)
        gaps, whole_gaps = [], []
        for (times, fractions), duration, since in zip(self._pasts, self.durations, reached, strict=True):
            before = bisect_right(times, since)
            after = before if until is None else bisect_left(fractions, until)
            end = times[after] if after < len(times) else duration
            gaps.append(end - since)
            whole_gaps.append(end - times[max(0, before - 1)])
        if not last:
            return max(0.0, median(gaps)), max(0.0, median(whole_gaps))
        start, duration = self.times_reached(0), self.run.times[last] - self.run.times[0]
        expected = _compute_scaled_median(gaps, reached, start, duration)
        longest = _compute_scaled_median(whole_gaps, reached, start, duration)
        return max(0.0, expected), max(0.0, longest)


def build_forecast(alignment: HistoryAlignment, last: int) -> Forecast:
    """Run all predictors at the advance ``last``, and compare earlier forecasts."""
    run = alignment.run
    now = run.times[last]
    errors: list[PredictorValues] = []
    if now > 0.0 and alignment.durations:
        # At the start there is no rate yet, so only the unscaled predictor is compared.
        spans = list(map(sub, alignment.times_reached(last), alignment.times_reached(0)))
        errors.append((None, None, compute_relative_error(median(spans), now), None))
    for index in sorted({run.index_at(share * now) for share in LOOKBACK_MARKS}):
        actual = now - run.times[index]
        if 0 < index < last and actual > 0.0:
            predicted = (
                *_predict_by_history(alignment, index, alignment.times_reached(last)),
                _predict_by_rate(run, index, run.fractions[last]),
            )
            errors.append(
                tuple(  # type: ignore[arg-type]
                    [None if span is None else compute_relative_error(span, actual) for span in predicted]
                )
            )
    whole, recent, unscaled = _predict_by_history(alignment, last, alignment.durations)
    if whole is None or recent is None or unscaled is None:
        return Forecast(now, (None, None, None, _predict_by_rate(run, last, 1.0)), errors)
    # Why the limit: by a rounding error, a past run may have reached this progress after its end.
    by_history = max(0.0, whole), max(0.0, recent), max(0.0, unscaled)
    return Forecast(now, (*by_history, _predict_by_rate(run, last, 1.0)), errors)


def _predict_by_rate(run: Curve, index: int, until: float) -> float | None:
    rate = compute_recent_rate(run, index)
    return None if rate is None else max(0.0, until - run.fractions[index]) * rate


def _predict_by_history(
    alignment: HistoryAlignment, index: int, ends: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Return the median seconds of past runs from an advance until ``ends``.

    They are scaled by the whole rate, scaled by the recent rate, and unscaled.
    """
    run = alignment.run
    reached = alignment.times_reached(index)
    if not reached:
        return None, None, None
    spans = list(map(sub, ends, reached))
    unscaled = median(spans)
    if index == 0:
        return unscaled, unscaled, unscaled
    by_whole, by_recent = (
        _compute_scaled_median(
            spans, reached, alignment.times_reached(start), run.times[index] - run.times[start]
        )
        for start in (0, find_start_index(run, index, RECENT_SHARE))
    )
    return by_whole, by_recent, unscaled


def _compute_scaled_median(
    spans: Sequence[float], reached: Sequence[float], before: Sequence[float], duration: float
) -> float:
    """Return the median of ``spans`` of past runs, scaled to this run's rate.

    This run took ``duration`` for a part. Past runs took from ``before`` until ``reached`` for it.
    """
    past_durations = list(map(sub, reached, before))
    if min(past_durations) > MIN_DURATION_S:
        return duration * median(list(map(truediv, spans, past_durations)))
    return median(
        [
            span * duration / past if past > MIN_DURATION_S else span
            for span, past in zip(spans, past_durations, strict=True)
        ]
    )


def compute_relative_error(predicted: float, actual: float) -> float:
    """Return (predicted - actual) / actual, at most ``MAX_RELATIVE_ERROR``."""
    return min(predicted - actual, MAX_RELATIVE_ERROR * actual) / actual
