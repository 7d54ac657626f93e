"""Bounded history of the predictions of a run, for scoring them when the run ends."""

from __future__ import annotations

from typing import Final, NamedTuple

from otel_progress.model import Eta

MAX_REMEMBERED: Final = 16
"""Predictions of one run in memory. Beyond it, every second one is dropped."""


OVERDUE_FRACTION: Final = 0.25
"""A run is overdue this fraction of its expected time after its interval. The margin is needed
because one ordinary run in ten ends a little after its interval.
"""


class PredictionScore(NamedTuple):
    """Error of a prediction divided by the duration, and coverage of its interval.

    ``covered`` is None for a prediction without an interval.
    """

    error: float
    covered: bool | None


class Predictions:
    """The first, the last, and some other predictions of a run.

    Times are active seconds since the start. A run lasts at least until now. So of the predictions
    before half of now, only the newest is needed.
    """

    __slots__ = ("_first", "_predictions", "_spacing")

    def __init__(self) -> None:
        self._first: Eta | None = None
        self._predictions: list[Eta] = []
        self._spacing = 0.0

    def add(self, eta: Eta) -> None:
        """Add an estimate whose ``clock`` is in active seconds.

        Ignore it if it has no remaining time or is not new.
        """
        predictions = self._predictions
        if eta.remaining_s is None or (predictions and eta.clock <= predictions[-1].clock):
            return
        if self._first is None:
            self._first = eta
        # Why: the last element is always the newest prediction, however close it is to the one
        # before it.
        if len(predictions) > 1 and eta.clock - predictions[-2].clock < self._spacing:
            predictions.pop()
        predictions.append(eta)
        while len(predictions) > 1 and predictions[1].clock <= eta.clock / 2:
            del predictions[0]
        if len(predictions) > MAX_REMEMBERED:
            del predictions[1:-1:2]
            self._spacing = eta.clock / MAX_REMEMBERED

    def score(self, duration: float) -> tuple[PredictionScore, PredictionScore, PredictionScore] | None:
        """Return the scores of the first, the middle and the last prediction.

        Return None when nothing was predicted, or when the duration is not positive.
        """
        first = self._first
        if first is None or not duration > 0.0:
            return None
        half = duration / 2
        at_half = next((eta for eta in reversed(self._predictions) if eta.clock <= half), first)
        last = self._predictions[-1]
        return (
            _score_prediction(first, duration),
            _score_prediction(at_half.at(half), duration),
            _score_prediction(last, duration),
        )


def compute_overdue_threshold(eta: Eta) -> float | None:
    """Return the active seconds after which a run is overdue, or None.

    The ``clock`` of the estimate is in active seconds.
    """
    if eta.remaining_s is None or eta.high_s is None:
        return None
    return eta.clock + eta.high_s + OVERDUE_FRACTION * (eta.clock + eta.remaining_s)


def _score_prediction(eta: Eta, duration: float) -> PredictionScore:
    remaining_s = duration - eta.clock
    predicted_s = eta.remaining_s if eta.remaining_s is not None else eta.low_s or 0.0
    covered = None
    if eta.low_s is not None and eta.high_s is not None:
        covered = eta.low_s <= remaining_s <= eta.high_s
    return PredictionScore(abs(predicted_s - remaining_s) / duration, covered)
