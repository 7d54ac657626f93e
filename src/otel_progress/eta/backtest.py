"""What a history teaches about predicting by it: how far off each past run would have been foretold from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otel_progress.eta.curves import Curve
from otel_progress.eta.ensemble import NO_ERRORS, Errors, blend_forecast, sum_squared_errors
from otel_progress.eta.predictors import Forecast, HistoryAlignment, forecast

SAMPLES_PER_RUN: Final = 20
"""Each past run is asked at so many equal parts of its duration (not at its end), and..."""


SPARSE_ABOVE: Final = 10
"""...at every other of them, the first and the last too, with more runs than this: errors within a run are alike, and each costs."""


MIN_RUNS: Final = 3
"""With fewer past runs nothing is left out, and there is no interval."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """Leave-one-out errors in the order of ``shares``, the part of its predicted duration at which each was made.

    ``scores`` are |error| / predicted duration / spread, ``runs`` tells in the how-many-eth past run each was made.
    """

    shares: Sequence[float]
    scores: Sequence[float]
    runs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Backtest:
    """The leave-one-out record of a history: errors of each expert, by which they are blended, and what was off of the blend."""

    errors: Errors
    residuals: Residuals


NO_BACKTEST: Final = Backtest(NO_ERRORS, Residuals((), (), ()))


def run_backtest(history: Sequence[Curve]) -> Backtest:
    """Foretell each run from the others at equal parts of its time; nothing comes of fewer than three."""
    if len(history) < MIN_RUNS:
        return NO_BACKTEST
    parts = range(1, SAMPLES_PER_RUN, 1 if len(history) <= SPARSE_ABOVE else 2)
    told = [_forecasts(run, [*history[:n], *history[n + 1 :]], parts) for n, run in enumerate(history)]
    errors = [sum_squared_errors(run.duration, asked) for run, asked in zip(history, told, strict=True)]
    rows: list[tuple[float, float, int]] = []
    for n, run in enumerate(history):
        # By the errors of the others: with few runs the own ones would make the blend look better than it is.
        others = Errors.of([*errors[:n], *errors[n + 1 :]])
        for one in told[n]:
            blend = blend_forecast(one, others)
            if blend is not None and blend.whole > 0.0:
                rows.append((blend.share, abs(run.duration - blend.whole) / blend.whole / blend.spread, n))
    shares, scores, runs = zip(*sorted(rows), strict=True) if rows else ((), (), ())
    return Backtest(Errors.of(errors), Residuals(shares, scores, runs))


def _forecasts(run: Curve, others: Sequence[Curve], parts: Sequence[int]) -> list[Forecast]:
    beside = HistoryAlignment(run, others)
    asked = [run.index_at(run.duration * part / SAMPLES_PER_RUN) for part in parts]
    told = {index: forecast(beside, index) for index in set(asked)}
    return [told[index] for index in asked]
