"""Leave-one-out backtest: each past run is predicted from the other past runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otel_progress.eta.curves import Curve
from otel_progress.eta.ensemble import NO_ERRORS, Errors, blend_forecast, sum_squared_errors
from otel_progress.eta.predictors import Forecast, HistoryAlignment, build_forecast

SAMPLES_PER_RUN: Final = 20
"""Number of equal parts of a run's duration. A forecast is made at the end of each but the last."""


SPARSE_ABOVE: Final = 10
"""Number of runs above which every other part is used, because errors within a run are similar."""


MIN_RUNS: Final = 3
"""Minimum number of past runs for a backtest and for an interval."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """Leave-one-out errors in ascending order of ``shares``.

    ``shares`` are the parts (0 to 1) of the predicted duration at which forecasts were made.
    ``scores`` are |error| / predicted duration / spread. ``runs`` are the indices of the past runs.
    """

    shares: Sequence[float]
    scores: Sequence[float]
    runs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Backtest:
    """Result of a backtest: errors of each predictor, and errors of their blend."""

    errors: Errors
    residuals: Residuals


NO_BACKTEST: Final = Backtest(NO_ERRORS, Residuals((), (), ()))


def run_backtest(history: Sequence[Curve]) -> Backtest:
    """Predict each run from the others.

    With fewer than ``MIN_RUNS`` runs, return no errors.
    """
    if len(history) < MIN_RUNS:
        return NO_BACKTEST
    parts = range(1, SAMPLES_PER_RUN, 1 if len(history) <= SPARSE_ABOVE else 2)
    forecasts = [
        _build_forecasts(run, [*history[:n], *history[n + 1 :]], parts) for n, run in enumerate(history)
    ]
    errors = [
        sum_squared_errors(run.duration, of_run) for run, of_run in zip(history, forecasts, strict=True)
    ]
    rows: list[tuple[float, float, int]] = []
    for n, run in enumerate(history):
        # Why the errors of the others: with few runs, its own would make the blend look too good.
        others = Errors.from_runs([*errors[:n], *errors[n + 1 :]])
        for forecast in forecasts[n]:
            blend = blend_forecast(forecast, others)
            if blend is not None and blend.whole > 0.0:
                rows.append((blend.share, abs(run.duration - blend.whole) / blend.whole / blend.spread, n))
    shares, scores, runs = zip(*sorted(rows), strict=True) if rows else ((), (), ())
    return Backtest(Errors.from_runs(errors), Residuals(shares, scores, runs))


def _build_forecasts(run: Curve, others: Sequence[Curve], parts: Sequence[int]) -> list[Forecast]:
    alignment = HistoryAlignment(run, others)
    indices = [run.index_at(run.duration * part / SAMPLES_PER_RUN) for part in parts]
    forecasts = {index: build_forecast(alignment, index) for index in set(indices)}
    return [forecasts[index] for index in indices]
