"""Runs of unknown total, and opaque steps: durations alone."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.errors import RejectedValueError
from otel_progress.eta import Eta, Trajectory, estimate, estimate_opaque, opaque_ratio

TOOK = [Trajectory(seconds) for seconds in (40.0, 10.0, 30.0, 20.0, 50.0)]


def test_median_of_what_lasted_as_long() -> None:
    """What is left is the median of the durations longer than the time so far, less that."""
    told = [estimate([], elapsed, TOOK) for elapsed in (0.0, 5.0, 25.0, 35.0)]
    assert [eta.remaining_s for eta in told] == [30.0, 25.0, 15.0, 10.0]
    assert {(eta.state, eta.basis, eta.runs) for eta in told} == {("estimated", "durations", 5)}


def test_nothing_done_yet_of_an_unknown_shape() -> None:
    """A known total without an advance, where past runs left no curve, rests on durations as well."""
    assert estimate([(0.0, 0.0)], 5.0, TOOK) == estimate([], 5.0, TOOK)


def test_past_the_longest() -> None:
    """Past the longest it holds at the mean distance between the durations, and at three times the longest says only "at least"."""
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
def test_in_order(durations: list[float], elapsed: float, more: float) -> None:
    """Whatever they are, low <= remaining <= high, nothing is negative, and time alone never makes the total shorter."""
    history = [Trajectory(seconds) for seconds in durations]
    first, later = estimate([], elapsed, history), estimate([], elapsed + more, history)
    for eta in (first, later):
        if eta.remaining_s is not None and eta.low_s is not None and eta.high_s is not None:
            assert 0.0 <= eta.low_s <= eta.remaining_s <= eta.high_s
    if first.remaining_s is not None and later.remaining_s is not None and elapsed <= max(durations[-20:]):
        assert elapsed + more + later.remaining_s >= (elapsed + first.remaining_s) * (1 - 1e-9)


@given(elapsed=st.floats(0.0, 49.0), share=st.floats(0.0, 1.0))
def test_ages_by_one_rule(elapsed: float, share: float) -> None:
    """Until it is due to be asked again, an estimate becomes by itself what asking anew would say."""
    first = estimate([], elapsed, TOOK)
    assert first.counts_down_s is not None
    until = elapsed + share * first.counts_down_s * (1 - 1e-9)
    assert first.at(until).remaining_s == pytest.approx(estimate([], until, TOOK).remaining_s)


@given(elapsed=st.floats(0.0, 1e9), expected=st.floats(0.0, 1e9), more=st.floats(0.0, 1e9))
def test_opaque_ratio(elapsed: float, expected: float, more: float) -> None:
    """It starts at 0, never falls, and never reaches the end."""
    ratio = opaque_ratio(elapsed, expected)
    assert 0.0 <= ratio <= opaque_ratio(elapsed + more, expected) <= 0.99


def test_opaque_ratio_is_true_to_the_time() -> None:
    """To half of the expected time it is the share of it, and at twice that it has all but ended."""
    assert opaque_ratio(15.0, 30.0) == pytest.approx(0.5, rel=0.003)
    assert opaque_ratio(30.0, 30.0) == pytest.approx(2 ** (-1 / 6))
    assert opaque_ratio(60.0, 30.0) == 0.99
    assert opaque_ratio(1e300, 1e-300) == 0.99
    assert [opaque_ratio(*case) for case in ((0.0, 30.0), (-1.0, 30.0), (5.0, 0.0), (nan, 30.0))] == [0.0] * 4


def test_opaque_step_by_what_is_expected() -> None:
    """Without past runs it rests on what the caller expects: it counts down, holds at nothing, and stalls at three times that."""
    told = [estimate_opaque(elapsed, [], expected=30.0) for elapsed in (0.0, 12.0, 40.0, 91.0)]
    assert [(eta.remaining_s, eta.state, eta.basis) for eta in told] == [
        (30.0, "estimated", "expected"),
        (18.0, "estimated", "expected"),
        (0.0, "holding", "expected"),
        (None, "stalled", "expected"),
    ]
    assert estimate_opaque(1.0, []) == Eta(None, None, None, "unknown", "none", 0, 1.0)


def test_opaque_step_by_past_runs() -> None:
    """Past runs know better than the caller."""
    assert estimate_opaque(5.0, TOOK, expected=1000.0) == estimate([], 5.0, TOOK)


@pytest.mark.parametrize(("elapsed", "expected"), [(nan, 1.0), (-1.0, 1.0), (1.0, inf), (1.0, -3.0)])
def test_opaque_garbage(elapsed: float, expected: float) -> None:
    """Times that are none are refused by name."""
    with pytest.raises(
        RejectedValueError, match=r"Invalid (elapsed|expected) .*: expected seconds from 0 to 1e\+15"
    ):
        estimate_opaque(elapsed, [], expected=expected)
