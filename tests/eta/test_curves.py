"""Downsampling of curves: few points with the same shape and longest gap."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.eta import shrink
from otel_progress.eta.curves import interpolate_time

STEPS = st.lists(st.tuples(st.floats(0.0, 1e3), st.floats(1e-6, 1.0)), min_size=1, max_size=300)


def build_points(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return an ascending curve from (0, 0) to fraction 1."""
    whole = sum(done for _, done in steps)
    points, at, so_far = [(0.0, 0.0)], 0.0, 0.0
    for seconds, done in steps:
        at, so_far = at + seconds, so_far + done
        points.append((at, so_far / whole))
    return points


def find_longest_gap(points: list[tuple[float, float]]) -> float:
    """Return the longest time between two points."""
    return max((later - earlier for (earlier, _), (later, _) in pairwise(points)), default=0.0)


@given(steps=STEPS, most=st.integers(6, 64))
def test_shrink_returns_few_points_of_the_curve(steps: list[tuple[float, float]], most: int) -> None:
    """Both ends and the longest gap are kept."""
    points = build_points(steps)
    short = shrink(points, most)
    assert len(short) <= most
    assert (short[0], short[-1]) == (points[0], points[-1])
    assert short == sorted(set(points) & set(short)) or len(set(points)) < len(points)
    assert find_longest_gap(short) >= find_longest_gap(points)
    gap = find_longest_gap(points)
    assert (
        any(later - earlier == gap for (earlier, _), (later, _) in pairwise(short))
        or len(points) <= most
        or gap == 0.0
    )


@given(steps=STEPS)
def test_shrink_keeps_the_shape_within_its_bound(steps: list[tuple[float, float]]) -> None:
    """The times of all fractions are compared."""
    points = build_points(steps)
    short = shrink(points)
    times, fractions = [time for time, _ in short], [fraction for _, fraction in short]
    allowed = 2.0 / 60 * (points[-1][0] or 1.0) + 1e-6
    for time, fraction in points:
        near = (
            interpolate_time(times, fractions, max(0.0, fraction - 2.0 / 60)),
            interpolate_time(times, fractions, min(1.0, fraction + 2.0 / 60)),
        )
        assert near[0] - allowed <= time <= near[1] + allowed


def test_shrink_of_a_short_curve_returns_all_points() -> None:
    """An empty curve stays empty."""
    points = build_points([(1.0, 0.1)] * 40)
    assert shrink(points) == points
    assert shrink([]) == []


def test_shrink_to_fewer_than_four_points_is_rejected() -> None:
    """Both ends and a gap need four points."""
    with pytest.raises(ValueError, match="Invalid most 3: expected at least 4 points"):
        shrink([], most=3)
