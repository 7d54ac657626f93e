"""Invalid and extreme input of estimates: rejected, or finite and not negative."""

from __future__ import annotations

from math import inf, isfinite, nan
from typing import Any

import pytest

from otel_progress.errors import RejectedValueError
from otel_progress.eta import Parallel, Trajectory, estimate
from otel_progress.eta.ensemble import Errors, sum_squared_errors
from otel_progress.eta.predictors import Forecast

SEEN = [(0.0, 0.0), (1.0, 0.1), (2.0, 0.2), (3.0, 0.3)]
PAST = [Trajectory(10.0 + n, ((0.0, 0.0), (5.0, 0.5), (10.0, 1.0))) for n in range(5)]


@pytest.mark.parametrize(
    ("points", "elapsed", "history", "text"),
    [
        (
            [(0.0, 0.0), (1e308, 0.5)],
            1e15,
            PAST,
            r"Invalid points\[1\], time 1e\+308: expected at most 1e\+15 seconds",
        ),
        (
            [(0.0, 0.0), (1e308, 0.1), (1.2e308, 0.2)],
            1e15,
            [],
            r"Invalid points\[2\], time 1.2e\+308: expected at most 1e\+15 seconds",
        ),
        (SEEN, 1e308, PAST, r"Invalid elapsed 1e\+308: expected seconds from 0 to 1e\+15"),
        (SEEN, 10**400, PAST, r"Invalid elapsed 10{400}: expected seconds from 0 to 1e\+15"),
        ([(0.0, 0.0), (10**400, 1.0)], 3.0, PAST, r"Invalid points: expected pairs of numbers"),
        (
            SEEN,
            3.0,
            [Trajectory(1e308, ())],
            r"Invalid history\[0\].duration_s 1e\+308: expected seconds from 0 to 1e\+15",
        ),
        (SEEN, 3.0, [Trajectory(inf, ())], r"Invalid history\[0\].duration_s inf: expected seconds"),
        ([*SEEN, (nan, 0.4)], 5.0, PAST, r"Invalid points\[4\] \(nan, 0.4\): expected finite numbers"),
    ],
)
def test_implausible_times_are_rejected(
    points: list[tuple[float, float]], elapsed: float, history: list[Trajectory], text: str
) -> None:
    """Their sums would overflow."""
    with pytest.raises(RejectedValueError, match=text):
        estimate(points, elapsed, history)


@pytest.mark.parametrize(
    "parallel", [Parallel([1.0], [], 10**400, 4), Parallel([1.0], [1e308], 3, 4), Parallel([1.0], [], 1, 0)]
)
def test_implausible_children_are_rejected(parallel: Parallel) -> None:
    """Durations and counts are checked."""
    with pytest.raises(RejectedValueError, match=r"Invalid parallel\."):
        estimate(SEEN, 3.0, PAST, parallel=parallel)


@pytest.mark.parametrize(
    ("points", "elapsed", "history", "options"),
    [
        ([(0.0, 0.0), (1e15, 5e-324)], 1e15, PAST, {}),
        ([(0.0, 0.0), (1e15, 5e-324)], 1e15, [], {}),
        ([(0.0, 0.0), (5e-324, 1e-300)], 1e-320, [], {}),
        (SEEN, 1e15, [Trajectory(1e15, ((0.0, 0.0), (1e15, 1.0)))] * 4, {}),
        (SEEN, 3.0, [Trajectory(0.0, ((0.0, 0.0), (0.0, 1.0)))] * 4, {}),
        (SEEN, 3.0, PAST, {"confidence": 1.0 - 1e-16}),
        (SEEN, 3.0, PAST, {"confidence": 1e-300}),
        (SEEN, 3.0, PAST, {"parallel": Parallel([1e15, 0.0], [1e15], 10**9, 4)}),
    ],
)
def test_extreme_input_gives_a_finite_estimate(
    points: list[tuple[float, float]], elapsed: float, history: list[Trajectory], options: dict[str, Any]
) -> None:
    """The values are not negative."""
    eta = estimate(points, elapsed, history, **options)
    told = [eta.remaining_s, eta.low_s, eta.high_s, eta.counts_down_s, eta.stalls_after_s]
    assert all(isfinite(value) and value >= 0.0 for value in told if value is not None)


def test_slow_second_step_is_hardly_weighted() -> None:
    """There is no history."""
    eta = estimate([(0.0, 0.0), (1.0, 0.05), (4.0, 0.1)], 4.0, ())
    assert eta.remaining_s == pytest.approx(
        0.9 * (20.0 + 40.0 / 7)
    )  # that of the first, and a seventh of the difference


def test_errors_of_several_runs_are_averaged() -> None:
    """Each forecast has the same weight."""
    late, early = Forecast(5.0, (10.0, None, 5.0, 5.0), ()), Forecast(5.0, (5.0, None, 5.0, 5.0), ())
    assert Errors.from_runs(
        [sum_squared_errors(10.0, [late]), sum_squared_errors(10.0, [early, early])]
    ).squares[5] == [
        pytest.approx(1 / 3),
        None,
        0.0,
        0.0,
    ]
    assert Errors.from_runs([]).squares[5] == [None] * 4
