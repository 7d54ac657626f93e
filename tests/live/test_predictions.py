"""Predictions remembered in bounded room: the first, the one that stood at half, the last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.live.predictions import MAX_REMEMBERED, Predictions, PredictionScore
from otel_progress.model import Eta


def told(at: float, remaining: float | None, low: float | None = None, high: float | None = None) -> Eta:
    """Return a prediction made after ``at`` seconds of work."""
    return Eta(remaining, low, high, "estimated", "rate", 0, at)


def test_nothing_to_judge() -> None:
    """Without a prediction, or without a duration, there is no verdict."""
    remembered = Predictions()
    remembered.add(told(1.0, None))
    assert remembered.score(10.0) is None
    remembered.add(told(2.0, 3.0))
    assert remembered.score(0.0) is None
    assert remembered.score(float("nan")) is None


def test_a_prediction_that_stalls_by_half() -> None:
    """A prediction that stood at half but was stalled by then is judged by the least it said."""
    remembered = Predictions()
    given = Eta(10.0, 8.0, 12.0, "estimated", "rate", 0, 0.0, 5.0, 20.0)
    remembered.add(given)
    verdicts = remembered.score(100.0)
    assert verdicts is not None
    first, middle, last = verdicts
    assert (first, last) == (PredictionScore(0.9, covered=False), PredictionScore(0.9, covered=False))
    least = given.at(50.0).low_s
    assert least is not None
    assert middle == PredictionScore((50.0 - least) / 100.0, covered=None)


@given(st.integers(1, 3000), st.floats(0.01, 100.0), st.floats(0.0, 1.0))
def test_the_one_that_stood_at_half_is_found(count: int, step: float, extra: float) -> None:
    """However many predictions, few are kept, and the one found is made at most a thirty-second of the duration before half."""
    remembered = Predictions()
    for number in range(1, count + 1):
        remembered.add(told(number * step, number * step))  # says when it was made
        assert len(remembered._predictions) <= MAX_REMEMBERED + 1
    duration = (count + extra) * step
    verdicts = remembered.score(duration)
    assert verdicts is not None
    first, middle, last = verdicts
    assert first.error == pytest.approx(abs(2 * step - duration) / duration)
    assert last.error == pytest.approx(abs(2 * count * step - duration) / duration)
    if count >= 3:  # the end it predicted is twice the moment it was made at
        made_at = duration * (1 - middle.error) / 2
        assert duration / 2 - max(step, duration / 8) - 1e-9 <= made_at <= duration / 2 + 1e-9
