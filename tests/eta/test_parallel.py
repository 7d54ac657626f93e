"""Parallel children: against exact schedules and simple rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heapreplace
from math import inf, isfinite, nan
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_progress.errors import RejectedValueError
from otel_progress.eta import Parallel, estimate
from otel_progress.eta.parallel import simulate
from otel_progress.eta.survival import fit_lifetimes
from tests.support.sample_runs import steady, trajectory

DRAWN: dict[str, Callable[[Random], float]] = {
    "uniform": lambda random: random.uniform(5.0, 15.0),
    "exponential": lambda random: random.expovariate(0.1),
    "some long": lambda random: random.choice((2.0, 2.0, 2.0, 30.0)),
}
SECONDS = st.lists(st.floats(0.0, 1e6), max_size=30)


def iterate_schedule(durations: list[float], workers: int) -> Iterator[tuple[Parallel, float, float]]:
    """Yield the known children at tenths of a schedule, with the true remaining time."""
    free, spans = [0.0] * workers, []
    heapify(free)
    for duration in durations:
        spans.append((free[0], free[0] + duration))
        heapreplace(free, spans[-1][1])
    end = max(free)
    for tenth in range(2, 10):
        at = end * tenth / 10
        ended = [until - since for since, until in spans if until <= at]
        running = [at - since for since, until in spans if since <= at < until]
        yield Parallel(ended, running, len(durations) - len(ended) - len(running), workers), end - at, end


def simulate_remaining(children: Parallel) -> float:
    """Return the simulated remaining seconds."""
    told = simulate(children)
    assert told is not None
    return told.remaining_s


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("children", "workers"), [(60, 8), (300, 16)])
def test_simulation_beats_dividing_and_the_maximum(name: str, children: int, workers: int) -> None:
    """Both rules are combined."""
    errors: dict[str, list[float]] = {"played": [], "divided": [], "longest": []}
    for seed in range(12):
        random = Random(seed)
        for known, left, end in iterate_schedule([DRAWN[name](random) for _ in range(children)], workers):
            told = simulate(known)
            assert told is not None
            mean = sum(known.ended) / len(known.ended)
            rests = [max(0.0, mean - lasted) for lasted in known.running]
            errors["played"].append(abs(told.remaining_s - left) / end)
            errors["divided"].append(abs((sum(rests) + known.remaining * mean) / workers - left) / end)
            errors["longest"].append(abs(max(rests) + known.remaining * mean / workers - left) / end)
    means = {rule: sum(values) / len(values) for rule, values in errors.items()}
    assert means["played"] < 0.9 * min(means["divided"], means["longest"])


def test_simulation_of_equal_children_is_exact() -> None:
    """The last round may be incomplete."""
    for children, workers in ((20, 4), (103, 8), (7, 16)):
        for known, left, _ in iterate_schedule([10.0] * children, workers):
            told = simulate(Parallel(known.ended, known.running, known.remaining, workers, known=[10.0]))
            assert told is not None
            assert (told.remaining_s, told.longest_s) == pytest.approx((left, 10.0))


def test_simulation_credits_running_children() -> None:
    """A child that outlasted short ones is a long one."""
    fresh, half = (simulate_remaining(Parallel([10.0] * 5, [lasted], 0, 1)) for lasted in (0.0, 5.0))
    assert (fresh, half) == pytest.approx((10.0, 5.0))
    assert simulate_remaining(Parallel([2.0] * 9 + [30.0], [4.0], 0, 1)) == pytest.approx(26.0)


def test_lifetimes_include_running_children() -> None:
    """Early on only short children have ended."""
    lives = fit_lifetimes([1.0, 1.0], [9.0, 9.0])
    assert lives is not None
    assert lives.ended == pytest.approx([0.25, 0.5])
    assert fit_lifetimes([], [5.0]) is None


def test_simulation_before_the_first_end_uses_past_runs() -> None:
    """Without any there is no simulation."""
    assert simulate(Parallel([], [0.0] * 4, 4, 4)) is None
    assert simulate_remaining(Parallel([], [0.0] * 4, 4, 4, known=[10.0] * 3)) == pytest.approx(20.0)


def test_past_children_are_scaled_to_the_rate_of_this_run() -> None:
    """The machine is three times as slow."""
    random = Random(3)
    known = [random.uniform(8.0, 12.0) for _ in range(20)]
    slow = simulate_remaining(
        Parallel([random.uniform(24.0, 36.0) for _ in range(8)], [0.0] * 4, 36, 4, known)
    )
    assert slow == pytest.approx(10 * 30.0, rel=0.15)


def test_running_children_that_outlast_all_have_time_left() -> None:
    """The tail follows from the known durations."""
    assert simulate_remaining(Parallel([10.0], [12.0] * 3, 0, 4)) > 10.0


def test_sampled_durations_keep_the_mean() -> None:
    """Every fourth child is long."""
    ended = [10.0, 10.0, 10.0, 70.0] * 500
    assert simulate_remaining(Parallel(ended, [], 8000, 8)) == pytest.approx(8000 * 25.0 / 8, rel=0.02)


def test_simulation_of_a_thousand_workers_is_scaled_down() -> None:
    """Running children are credited."""
    random = Random(4)
    ended = [random.uniform(5.0, 15.0) for _ in range(3000)]
    for waiting, least, most in ((0, 4.0, 10.5), (2000, 24.0, 36.0)):
        assert least < simulate_remaining(Parallel(ended, [5.0] * 1000, waiting, 1000)) < most


def test_simulation_of_a_million_children_is_bounded() -> None:
    """Only the last rounds are simulated."""
    random = Random(1)
    ended = [random.uniform(5.0, 15.0) for _ in range(5000)]
    assert simulate_remaining(Parallel(ended, [3.0] * 8, 1_000_000, 8)) == pytest.approx(
        1_000_000 * 10.0 / 8, rel=0.01
    )


def test_parallel_estimate_counts_down() -> None:
    """The children replace the rate."""
    points = [(0.0, 0.0), (10.0, 0.25), (10.0, 0.5)]
    eta = estimate(points, 14.0, [], parallel=Parallel([10.0, 10.0], [4.0, 4.0], 0, 2))
    assert eta.remaining_s == pytest.approx(6.0)
    assert (eta.basis, eta.state, eta.low_s) == ("parallel", "estimated", None)
    assert eta.at(17.0).remaining_s == pytest.approx(3.0)
    assert estimate(points, 50.0, [], parallel=Parallel([10.0, 10.0], [40.0, 40.0], 0, 2)).state == "stalled"


def test_parallel_estimate_with_history_has_an_interval() -> None:
    """The interval is that of past runs."""
    history = [trajectory(steady(seconds, 10)) for seconds in (95.0, 100.0, 105.0)]
    points = [(10.0 * n, n / 10) for n in range(6)]
    eta = estimate(points, 50.0, history, parallel=Parallel([20.0] * 5, [10.0, 0.0], 4, 2))
    assert eta.remaining_s == pytest.approx(50.0, rel=0.1)
    assert eta.low_s is not None
    assert eta.runs == 3


def test_parallel_estimate_without_durations_uses_the_points() -> None:
    """The children are ignored."""
    points = steady()[:21]
    assert estimate(points, 40.0, [], parallel=Parallel([], [1.0], 3, 2)) == estimate(points, 40.0, [])


@example(ended=[1e6], running=[], known=[5e-324, 1e-300], remaining=10**7, workers=1)
@given(
    ended=SECONDS, running=SECONDS, known=SECONDS, remaining=st.integers(0, 10**7), workers=st.integers(1, 40)
)
def test_simulation_of_any_children_is_finite(
    ended: list[float], running: list[float], known: list[float], remaining: int, workers: int
) -> None:
    """It is absent without a known duration."""
    told = simulate(Parallel(ended, running, remaining, workers, known))
    if not ended and not known:
        assert told is None
    else:
        assert told is not None
        assert isfinite(told.remaining_s)
        assert told.remaining_s >= 0.0


@pytest.mark.parametrize(
    ("children", "text"),
    [
        (
            Parallel([nan], [], 0, 1),
            r"Invalid parallel.ended\[0\] nan: expected seconds from 0 to 1e\+15",
        ),
        (Parallel([1.0], [-2.0], 0, 1), r"Invalid parallel.running\[0\] -2.0: expected"),
        (Parallel([1.0], [], 0, 1, known=[1.0, inf]), r"Invalid parallel.known\[1\] inf: expected"),
        (
            Parallel([1.0], [], -1, 1),
            r"Invalid parallel.remaining -1: expected 0 to 1e\+15",
        ),
        (Parallel([1.0], [], 0, 0), r"Invalid parallel.workers 0: expected 1 to 1e\+15"),
    ],
)
def test_invalid_children_are_rejected(children: Parallel, text: str) -> None:
    """The error names the value."""
    with pytest.raises(RejectedValueError, match=text):
        estimate([(0.0, 0.0)], 1.0, [], parallel=children)
