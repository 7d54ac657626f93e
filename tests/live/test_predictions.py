"""Tests of the bounded history of predictions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.live.predictions import MAX_REMEMBERED, Predictions, PredictionScore
from otel_progress.model import Eta


def build_prediction(
    at: float, remaining: float | None, low: float | None = None, high: float | None = None
) -> Eta:
    """Return a prediction made after ``at`` seconds of work."""
    return Eta(remaining, low, high, "estimated", "rate", 0, at)


def test_score_without_predictions_returns_none() -> None:
    """The same holds without a positive duration."""
    predictions = Predictions()
    predictions.add(build_prediction(1.0, None))
    assert predictions.score(10.0) is None
    predictions.add(build_prediction(2.0, 3.0))
    assert predictions.score(0.0) is None
    assert predictions.score(float("nan")) is None


def test_score_of_a_stalled_prediction_uses_its_lower_bound() -> None:
    """The prediction had stalled at half of the duration."""
    predictions = Predictions()
    given = Eta(10.0, 8.0, 12.0, "estimated", "rate", 0, 0.0, 5.0, 20.0)
    predictions.add(given)
    scores = predictions.score(100.0)
    assert scores is not None
    first, middle, last = scores
    assert (first, last) == (PredictionScore(0.9, covered=False), PredictionScore(0.9, covered=False))
    lower_bound = given.at(50.0).low_s
    assert lower_bound is not None
    assert middle == PredictionScore((50.0 - lower_bound) / 100.0, covered=None)


@given(st.integers(1, 3000), st.floats(0.01, 100.0), st.floats(0.0, 1.0))
def test_prediction_at_half_is_found_among_few_stored_ones(count: int, step: float, extra: float) -> None:
    """It is at most one step, or an eighth of the duration, older than half."""
    predictions = Predictions()
    for number in range(1, count + 1):
        predictions.add(build_prediction(number * step, number * step))
        assert len(predictions._predictions) <= MAX_REMEMBERED + 1
    duration = (count + extra) * step
    scores = predictions.score(duration)
    assert scores is not None
    first, middle, last = scores
    assert first.error == pytest.approx(abs(2 * step - duration) / duration)
    assert last.error == pytest.approx(abs(2 * count * step - duration) / duration)
    # Why from three: a prediction at half exists. It predicts an end at twice its own time.
    if count >= 3:
        made_at = duration * (1 - middle.error) / 2
        assert duration / 2 - max(step, duration / 8) - 1e-9 <= made_at <= duration / 2 + 1e-9
