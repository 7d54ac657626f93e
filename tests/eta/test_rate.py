"""Remaining time from a run's own pace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.eta.rate import remaining_seconds

STEPS = st.lists(st.tuples(st.floats(0.001, 1e4), st.floats(1e-6, 1.0)), min_size=2, max_size=60)


def curve(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return ascending points whose ratio ends below 1."""
    whole = sum(ratio for _, ratio in steps) * 1.25
    points, at, done = [], 0.0, 0.0
    for seconds, ratio in steps:
        at, done = at + seconds, done + ratio / whole
        points.append((at, done))
    return points


def test_steady_work() -> None:
    """At a steady pace the estimate is exact at every point."""
    points = [(float(second), second / 100) for second in range(41)]
    assert remaining_seconds(points, 40.0) == pytest.approx(60.0)


def test_too_little_is_no_estimate() -> None:
    """Before two points, or without any progress between them, nothing is said."""
    assert remaining_seconds([], 1.0) is None
    assert remaining_seconds([(1.0, 0.1)], 2.0) is None
    assert remaining_seconds([(1.0, 0.5), (2.0, 0.5)], 2.0) is None
    assert remaining_seconds([(1.0, 0.5), (1.0, 0.6)], 2.0) is None


def test_a_slow_start_is_forgotten() -> None:
    """Only the later half of the work done sets the pace."""
    points = [(0.0, 0.0), (100.0, 0.1), (101.0, 0.2), (102.0, 0.3), (103.0, 0.4)]
    assert remaining_seconds(points, 103.0) == pytest.approx(6.0)


def test_counts_down_and_holds() -> None:
    """Between points it counts down; when a step takes longer than any before, it holds and does not reach zero."""
    points = [(0.0, 0.0), (10.0, 0.2), (20.0, 0.4)]
    assert remaining_seconds(points, 25.0) == pytest.approx(25.0)
    assert remaining_seconds(points, 30.0) == remaining_seconds(points, 3_000.0) == pytest.approx(20.0)
    assert remaining_seconds([(0.0, 0.0), (10.0, 0.9)], 1_000.0) == pytest.approx(10.0 / 9 / 2)


def test_the_end_is_zero() -> None:
    """Once everything is done nothing remains."""
    assert remaining_seconds([(0.0, 0.0), (10.0, 1.0)], 11.0) == 0.0


def test_a_total_that_grew() -> None:
    """A ratio that fell says nothing about the pace."""
    assert remaining_seconds([(0.0, 0.0), (1.0, 0.8), (2.0, 0.3)], 2.0) is None


@given(STEPS, st.floats(0, 1e6))
def test_never_negative_never_zero(steps: list[tuple[float, float]], silence: float) -> None:
    """While work is left, the estimate is above zero, however long nothing was heard."""
    points = curve(steps)
    remaining = remaining_seconds(points, points[-1][0] + silence)
    assert remaining is None or remaining > 0.0
