"""Estimates from durations only: runs of unknown total, and opaque steps."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.errors import RejectedValueError
from otel_progress.eta import Eta, Trajectory, estimate, estimate_opaque, opaque_ratio

TOOK = [Trajectory(seconds) for seconds in (40.0, 10.0, 30.0, 20.0, 50.0)]


def test_estimate_is_the_median_of_longer_durations() -> None:
    """The elapsed time is subtracted."""
    told = [estimate([], elapsed, TOOK) for elapsed in (0.0, 5.0, 25.0, 35.0)]
    assert [eta.remaining_s for eta in told] == [30.0, 25.0, 15.0, 10.0]
    assert {(eta.state, eta.basis, eta.runs) for eta in told} == {("estimated", "durations", 5)}


def test_estimate_without_advance_and_curves_uses_durations() -> None:
    """The total is known."""
    assert estimate([(0.0, 0.0)], 5.0, TOOK) == estimate([], 5.0, TOOK)


def test_estimate_past_the_longest_duration_holds_then_stalls() -> None:
    """It holds at the mean distance between durations."""
    held = estimate([], 60.0, TOOK)
    assert (held.remaining_s, held.state) == (10.0, "holding")
    assert estimate([], 140.0, TOOK).remaining_s == 10.0
    stalled = estimate([], 151.0, TOOK)
    assert (stalled.remaining_s, stalled.low_s, stalled.high_s, stalled.state) == (
        None,
        10.0,
        None,
        "stalled",
    )


@given(
    durations=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=25),
    elapsed=st.floats(0.0, 1e7),
    more=st.floats(0.0, 1e6),
)
def test_estimate_from_any_durations_has_ordered_bounds(
    durations: list[float], elapsed: float, more: float
) -> None:
    """Time alone never reduces the total."""
    history = [Trajectory(seconds) for seconds in durations]
    first, later = estimate([], elapsed, history), estimate([], elapsed + more, history)
    for eta in (first, later):
        if eta.remaining_s is not None and eta.low_s is not None and eta.high_s is not None:
            assert 0.0 <= eta.low_s <= eta.remaining_s <= eta.high_s
    if first.remaining_s is not None and later.remaining_s is not None and elapsed <= max(durations[-20:]):
        assert elapsed + more + later.remaining_s >= (elapsed + first.remaining_s) * (1 - 1e-9)


@given(elapsed=st.floats(0.0, 49.0), share=st.floats(0.0, 1.0))
def test_estimate_from_durations_ages_as_a_new_estimate(elapsed: float, share: float) -> None:
    """The estimates agree until the first one stops counting down."""
    first = estimate([], elapsed, TOOK)
    assert first.counts_down_s is not None
    until = elapsed + share * first.counts_down_s * (1 - 1e-9)
    assert first.at(until).remaining_s == pytest.approx(estimate([], until, TOOK).remaining_s)


@given(elapsed=st.floats(0.0, 1e9), expected=st.floats(0.0, 1e9), more=st.floats(0.0, 1e9))
def test_opaque_ratio_never_decreases_or_ends(elapsed: float, expected: float, more: float) -> None:
    """It starts at 0 and stays below 1."""
    ratio = opaque_ratio(elapsed, expected)
    assert 0.0 <= ratio <= opaque_ratio(elapsed + more, expected) <= 0.99


def test_opaque_ratio_follows_the_time_until_half() -> None:
    """At twice the expected time it is at its maximum."""
    assert opaque_ratio(15.0, 30.0) == pytest.approx(0.5, rel=0.003)
    assert opaque_ratio(30.0, 30.0) == pytest.approx(2 ** (-1 / 6))
    assert opaque_ratio(60.0, 30.0) == 0.99
    assert opaque_ratio(1e300, 1e-300) == 0.99
    assert [opaque_ratio(*case) for case in ((0.0, 30.0), (-1.0, 30.0), (5.0, 0.0), (nan, 30.0))] == [0.0] * 4


def test_opaque_estimate_without_history_uses_the_expected_seconds() -> None:
    """It counts down, holds, and stalls at three times that."""
    told = [estimate_opaque(elapsed, [], expected=30.0) for elapsed in (0.0, 12.0, 40.0, 91.0)]
    assert [(eta.remaining_s, eta.state, eta.basis) for eta in told] == [
        (30.0, "estimated", "expected"),
        (18.0, "estimated", "expected"),
        (0.0, "holding", "expected"),
        (None, "stalled", "expected"),
    ]
    assert estimate_opaque(1.0, []) == Eta(None, None, None, "unknown", "none", 0, 1.0)


def test_opaque_estimate_with_history_uses_past_runs() -> None:
    """The expected seconds are ignored."""
    assert estimate_opaque(5.0, TOOK, expected=1000.0) == estimate([], 5.0, TOOK)


@pytest.mark.parametrize(("elapsed", "expected"), [(nan, 1.0), (-1.0, 1.0), (1.0, inf), (1.0, -3.0)])
def test_opaque_estimate_with_invalid_seconds_is_rejected(elapsed: float, expected: float) -> None:
    """The error names the argument."""
    with pytest.raises(
        RejectedValueError, match=r"Invalid (elapsed|expected) .*: expected seconds from 0 to 1e\+15"
    ):
        estimate_opaque(elapsed, [], expected=expected)
