"""Ensemble of predictors, weighted by their accuracy in this run and in past runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from otel_progress.eta.predictors import OWN_RATE, PREDICTOR_COUNT, Forecast, compute_relative_error

BUCKETS: Final = 10
"""Number of equal parts of a run. Errors are averaged over a part and its neighbours."""


PRIOR: Final = 50.0
"""Weight of past runs, in lookbacks of this run. A typical run does not change the weights."""


DECAY: Final = 0.5
"""Factor by which each earlier lookback counts less. A large recent error soon dominates."""


MIN_RELATIVE_ERROR: Final = 1e-3
"""Minimum relative error of a predictor, so that rounding does not dominate the weights."""


DEFAULT_ERRORS: Final = (0.1, 0.2, 0.2, 0.2)
"""Relative errors of the predictors without a backtest. Scaling by the whole rate is best."""


DEFAULT_WEIGHT: Final = 10.0
"""Weight of the default errors, in lookbacks."""


_CELLS: Final = BUCKETS * PREDICTOR_COUNT


ErrorSums: TypeAlias = "Sequence[float]"
"""Sums of squared errors of one run by bucket and predictor, then their counts. Runs add up."""


def sum_squared_errors(duration: float, forecasts: Iterable[Forecast]) -> ErrorSums:
    """Return the errors of forecasts for a finished run of ``duration`` seconds."""
    sums = [0.0] * (2 * _CELLS)
    for forecast in forecasts:
        left = duration - forecast.now
        if left > 0.0:
            first_cell = PREDICTOR_COUNT * _get_bucket(forecast.now, duration)
            for cell, span in enumerate(forecast.spans, first_cell):
                if span is not None:
                    sums[cell] += compute_relative_error(span, left) ** 2
                    sums[_CELLS + cell] += 1.0
    return sums


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squared relative error of each predictor in each bucket.

    None if it is unknown.
    """

    squares: Sequence[Sequence[float | None]]

    @classmethod
    def from_runs(cls, runs: Iterable[ErrorSums]) -> Errors:
        """Return the mean errors of these runs. Each forecast has the same weight."""
        sums = [sum(column) for column in zip(*runs, strict=True)]
        if not sums:
            return NO_ERRORS
        flat = [
            total / count if count else None
            for total, count in zip(sums[:_CELLS], sums[_CELLS:], strict=True)
        ]
        buckets = [flat[n : n + PREDICTOR_COUNT] for n in range(0, _CELLS, PREDICTOR_COUNT)]
        return cls(
            [
                [_compute_mean(column) for column in zip(*buckets[max(0, n - 1) : n + 2], strict=True)]
                for n in range(BUCKETS)
            ]
        )


NO_ERRORS: Final = Errors([[None] * PREDICTOR_COUNT] * BUCKETS)


@dataclass(frozen=True, slots=True)
class Blend:
    """One prediction: ``span`` seconds from ``now`` to the end.

    ``spread`` is the expected error relative to that in past runs. It depends on the lookbacks and
    on the disagreement of the predictors, and is 1 if they are no worse than usual. ``own`` is the
    share (0 to 1) of the weight that rests on this run's own rate.
    """

    now: float
    span: float
    spread: float
    own: float

    @property
    def whole(self) -> float:
        """Predicted duration of the run in seconds."""
        return self.now + self.span

    @property
    def share(self) -> float:
        """Elapsed share of the predicted duration, 0 to 1."""
        return self.now / self.whole if self.whole > 0.0 else 0.0


def blend_forecast(forecast: Forecast, errors: Errors) -> Blend | None:
    """Return the weighted mean of the predictors, or None if there is no prediction.

    The weight is 1 / (expected squared error)^2. The expected error of a predictor combines its
    error in past runs at the same progress with its lookbacks in this run. Lookbacks count only
    relative to the best predictor, because an unpredictable change of the rate does not rank them.
    The square selects a clearly better predictor, and averages similar ones.
    """
    weighted = _weight_predictors(forecast, errors)
    if not weighted:
        return None
    total = weights = own = inverse = inverse_square = 0.0
    for predictor in weighted:
        weight = 1.0 / (predictor.regret * predictor.regret)
        total += weight * predictor.span
        weights += weight
        if predictor.position == OWN_RATE:
            own = weight
        inverse += 1.0 / predictor.prior
        inverse_square += 1.0 / (predictor.prior * predictor.prior)
    span = total / weights
    # inverse / inverse_square is the blend's squared error in past runs.
    spread = (1.0 + _compute_extra_variance(weighted, span) * inverse_square / inverse) ** 0.5
    return Blend(forecast.now, span, spread, own / weights)


class _WeightedPredictor(NamedTuple):
    """Prediction of one predictor and its expected squared relative errors.

    ``prior`` is that of past runs. ``square`` includes the lookbacks. ``regret`` includes the
    lookbacks relative to the best predictor.
    """

    position: int
    span: float
    prior: float
    square: float
    regret: float


def _weight_predictors(forecast: Forecast, errors: Errors) -> list[_WeightedPredictor]:
    """Return an entry for every predictor with a prediction."""
    guess = next((span for span in forecast.spans if span is not None), None)
    if guess is None:
        return []
    past = errors.squares[_get_bucket(forecast.now, forecast.now + guess)]
    squares, regrets, counts = _sum_lookbacks(forecast)
    weighted = []
    for index, span in enumerate(forecast.spans):
        if span is not None:
            known = past[index]
            weight, prior = (DEFAULT_WEIGHT, DEFAULT_ERRORS[index] ** 2) if known is None else (PRIOR, known)
            prior += MIN_RELATIVE_ERROR * MIN_RELATIVE_ERROR
            square = (weight * prior + squares[index]) / (weight + counts[index])
            regret = (weight * prior + regrets[index]) / (weight + counts[index])
            weighted.append(_WeightedPredictor(index, span, prior, square, regret))
    return weighted


def _sum_lookbacks(forecast: Forecast) -> tuple[list[float], list[float], list[float]]:
    """Return sums over the lookbacks of each predictor.

    These are its squared errors, its squared errors minus those of the best predictor, and weights.
    """
    squares, regrets, counts = [0.0] * PREDICTOR_COUNT, [0.0] * PREDICTOR_COUNT, [0.0] * PREDICTOR_COUNT
    weight = 1.0
    for errors in reversed(forecast.errors):
        known = [(index, error * error) for index, error in enumerate(errors) if error is not None]
        best = min([square for _, square in known]) if len(known) > 1 else 0.0
        for index, square in known:
            squares[index] += weight * square
            regrets[index] += weight * (square - best)
            counts[index] += weight
        weight *= DECAY
    return squares, regrets, counts


def _compute_extra_variance(weighted: Sequence[_WeightedPredictor], span: float) -> float:
    """Return the squared relative error of ``span`` beyond that in past runs.

    By the law of total variance it is the mean of the variances plus the variance of the means,
    minus the known errors of each predictor. The weights are 1 / expected error. Why not those of
    the blend: they select nearly one predictor, and would hide the uncertainty of that selection.
    """
    total = weights = 0.0
    for predictor in weighted:
        weight = predictor.regret**-0.5
        distance = (predictor.span - span) / span if span > 0.0 else 0.0
        variance = max(0.0, predictor.square - predictor.prior)
        total += weight * (variance + max(0.0, distance * distance - predictor.prior))
        weights += weight
    return total / weights


def _compute_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _get_bucket(now: float, duration: float) -> int:
    return min(BUCKETS - 1, int(BUCKETS * now / duration)) if duration > 0.0 else 0
