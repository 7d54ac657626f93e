"""Several predictions as one: each weighs as much as it has lately, and in past runs, been right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from otel_progress.eta.predictors import OWN, PREDICTORS, Forecast, relative_error

BUCKETS: Final = 10
"""Errors are told apart by which tenth of the run they were made in; at a place, its own tenth and the neighbours count."""


PRIOR: Final = 50.0
"""What past runs say of an expert weighs as much as so many looks back in this run: one that goes like them is no reason to change..."""


DECAY: Final = 0.5
"""...but the latest look counts, each before it half as much, and one that failed by far soon outweighs small errors of the past."""


MIN_RELATIVE_ERROR: Final = 1e-3
"""No expert counts as better than a thousandth off: rounding and luck are no merit."""


DEFAULT_ERRORS: Final = (0.1, 0.2, 0.2, 0.2)
"""Relative errors presumed of the experts where past runs (fewer than three) do not tell: a warp by all of the run is the best bet..."""


DEFAULT_WEIGHT: Final = 10.0
"""...and as that is a guess it weighs less, as so many looks back."""


_CELLS: Final = BUCKETS * PREDICTORS


ErrorSums: TypeAlias = "Sequence[float]"
"""Errors of one run: the sum of their squares by tenth and expert, then their numbers. Of several runs they add up."""


def sum_squared_errors(duration: float, asked: Iterable[Forecast]) -> ErrorSums:
    """Return the errors made in forecasts of a run that is over and took ``duration`` seconds."""
    sums = [0.0] * (2 * _CELLS)
    for told in asked:
        left = duration - told.now
        if left > 0.0:
            cell = PREDICTORS * _bucket(told.now, duration)
            for place, span in enumerate(told.spans, cell):
                if span is not None:
                    sums[place] += relative_error(span, left) ** 2
                    sums[_CELLS + place] += 1.0
    return sums


@dataclass(frozen=True, slots=True)
class Errors:
    """The mean squared relative error of each expert around each tenth of a run; None where nothing is known."""

    squares: Sequence[Sequence[float | None]]

    @classmethod
    def of(cls, runs: Iterable[ErrorSums]) -> Errors:
        """Return what the errors made in these runs come to, every forecast counting the same."""
        sums = [sum(column) for column in zip(*runs, strict=True)]
        if not sums:
            return NO_ERRORS
        flat = [
            total / count if count else None
            for total, count in zip(sums[:_CELLS], sums[_CELLS:], strict=True)
        ]
        means = [flat[n : n + PREDICTORS] for n in range(0, _CELLS, PREDICTORS)]
        return cls(
            [
                [_mean(_known(column)) for column in zip(*means[max(0, n - 1) : n + 2], strict=True)]
                for n in range(BUCKETS)
            ]
        )


NO_ERRORS: Final = Errors([[None] * PREDICTORS] * BUCKETS)


@dataclass(frozen=True, slots=True)
class Blend:
    """One prediction: ``span`` seconds from ``now`` to the end.

    ``spread`` says how many times as far off as usual in past runs it is to be expected, by the looks back and by how far apart the experts
    are; 1 when that is no worse than then.
    ``own`` is the share (0 to 1) that rests on this run alone.
    """

    now: float
    span: float
    spread: float
    own: float

    @property
    def whole(self) -> float:
        """The predicted duration of the run in seconds."""
        return self.now + self.span

    @property
    def share(self) -> float:
        """How far the run is by this prediction, 0 to 1 of its time."""
        return self.now / self.whole if self.whole > 0.0 else 0.0


def blend_forecast(told: Forecast, errors: Errors) -> Blend | None:
    """Return the mean of what the experts say, weighted by 1 / (expected squared error)^2; None when no one can say.

    The error to expect of each is the mean of that in past runs at the same progress, and of by how much its looks back in this run were
    worse than the best one's: what nobody could have known, as that the pace was about to change, says nothing about whom to believe.
    The square makes it a choice where one is clearly better, and a mean where they are alike.
    """
    views = _views(told, errors)
    if not views:
        return None
    total = weights = own = usual = usually = 0.0
    for view in views:
        weight = 1.0 / (view.regret * view.regret)
        total += weight * view.span
        weights += weight
        if view.expert == OWN:
            own = weight
        usual += 1.0 / view.prior
        usually += 1.0 / (view.prior * view.prior)
    span = total / weights
    spread = (
        1.0 + _extra_variance(views, span) * usually / usual
    ) ** 0.5  # usual / usually: the blend's squared error, by past runs
    return Blend(told.now, span, spread, own / weights)


class _View(NamedTuple):
    """What an expert says, with squared relative errors: expected by past runs, by looks back too, and beyond the best expert's there."""

    expert: int
    span: float
    prior: float
    square: float
    regret: float


def _views(told: Forecast, errors: Errors) -> list[_View]:
    """Return a view for every expert who can say."""
    guess = next((span for span in told.spans if span is not None), None)
    if guess is None:
        return []
    usual = errors.squares[_bucket(told.now, told.now + guess)]
    squares, regrets, looks = _lookback_sums(told)
    views = []
    for expert, span in enumerate(told.spans):
        if span is not None:
            known = usual[expert]
            held, prior = (DEFAULT_WEIGHT, DEFAULT_ERRORS[expert] ** 2) if known is None else (PRIOR, known)
            prior += MIN_RELATIVE_ERROR * MIN_RELATIVE_ERROR
            square = (held * prior + squares[expert]) / (held + looks[expert])
            views.append(
                _View(expert, span, prior, square, (held * prior + regrets[expert]) / (held + looks[expert]))
            )
    return views


def _lookback_sums(told: Forecast) -> tuple[list[float], list[float], list[float]]:
    """Return sums over the looks back of each expert: of squared errors, of those less the best one's, and of how much they count."""
    squares, regrets, looks = [0.0] * PREDICTORS, [0.0] * PREDICTORS, [0.0] * PREDICTORS
    weight = 1.0
    for errors in reversed(told.errors):
        found = [(expert, error * error) for expert, error in enumerate(errors) if error is not None]
        best = min([square for _, square in found]) if len(found) > 1 else 0.0
        for expert, square in found:
            squares[expert] += weight * square
            regrets[expert] += weight * (square - best)
            looks[expert] += weight
        weight *= DECAY
    return squares, regrets, looks


def _extra_variance(views: Sequence[_View], span: float) -> float:
    """Return the squared relative error of ``span`` to expect beyond the usual: of looks back that failed, and of experts far apart.

    It is the law of total variance (the mean of the variances and the variance of the means), less what past runs say of each expert:
    that a bad one errs and disagrees is no news. The weights are 1 / expected error: those of the blend are nearly a choice, and would
    hide how uncertain it was to choose, and that the best one in looking back was so in part by luck.
    """
    total = weights = 0.0
    for view in views:
        weight = view.regret**-0.5
        apart = (view.span - span) / span if span > 0.0 else 0.0
        total += weight * (max(0.0, view.square - view.prior) + max(0.0, apart * apart - view.prior))
        weights += weight
    return total / weights


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _bucket(now: float, duration: float) -> int:
    return min(BUCKETS - 1, int(BUCKETS * now / duration)) if duration > 0.0 else 0
