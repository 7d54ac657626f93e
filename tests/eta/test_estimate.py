"""Estimates: with and without past runs, disturbed, resumed, and invalid."""

from __future__ import annotations

from math import inf, isfinite, nan
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.errors import RejectedValueError
from otel_progress.eta import Eta, Parallel, Trajectory, estimate
from tests.support.examples import scale_examples
from tests.support.sample_runs import error, job, jobs, seen, steady, stepped, trajectory

STEPS = st.lists(st.tuples(st.floats(0.0, 1e4), st.floats(0.0, 1.0)), max_size=40)
LATE = [part / 20 for part in range(5, 20)]


def build_points(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return ascending points. Some steps bring no advance, some take no time."""
    whole = sum(done for _, done in steps) or 1.0
    points, at, done = [(0.0, 0.0)], 0.0, 0.0
    for seconds, more in steps:
        at, done = at + seconds, min(1.0, done + more / whole)
        points.append((at, done))
    return points


PASTS = st.lists(STEPS.map(lambda steps: trajectory(build_points(steps))), max_size=5)


def are_similar(one: Eta, other: Eta) -> bool:
    """Return whether two estimates are equal up to rounding."""
    numbers = ("remaining_s", "low_s", "high_s", "clock", "counts_down_s", "stalls_after_s")
    estimates = [
        tuple(nan if (value := getattr(eta, name)) is None else value for name in numbers)
        for eta in (one, other)
    ]
    same = estimates[0] == pytest.approx(estimates[1], rel=1e-6, abs=1e-6, nan_ok=True)
    return bool(same) and (one.state, one.basis, one.runs) == (other.state, other.basis, other.runs)


def test_estimate_of_a_steady_rate_is_exact() -> None:
    """There are no past runs."""
    eta = estimate(steady()[:21], 40.0, [])
    assert eta.remaining_s == pytest.approx(60.0)
    assert (eta.state, eta.basis, eta.runs, eta.low_s, eta.high_s, eta.clock) == (
        "estimated",
        "rate",
        0,
        None,
        None,
        40.0,
    )


def test_estimate_with_a_similar_past_run_is_close() -> None:
    """The error is at most 10 % from the first advance on."""
    gaps = [9.0, 1.0, 1.0, 4.0, 4.0, 1.0, 2.0, 7.0]
    past = trajectory(stepped(gaps), tail=3.0)
    run = trajectory(stepped([2.0 * gap for gap in gaps]), tail=6.0)
    for at in (18.0, 20.0, 40.0, 50.0):
        eta = estimate(seen(run, at), at, [past])
        assert eta.remaining_s == pytest.approx(run.duration_s - at, rel=0.10)
        assert (eta.basis, eta.runs) == ("history", 1)


def test_estimate_before_the_first_advance_uses_past_runs() -> None:
    """Without any it is unknown."""
    assert estimate([(0.0, 0.0)], 0.0, [trajectory(steady())]).remaining_s == pytest.approx(100.0)
    assert estimate([(0.0, 0.0)], 3.0, []) == Eta(None, None, None, "unknown", "none", 0, 3.0)
    assert estimate([], 3.0, []).state == "unknown"


def test_estimate_with_history_beats_simple_rules() -> None:
    """These are the mean rate, the recent rate and the usual duration."""
    history, runs = jobs(6), jobs(4, seed=2)
    for run in runs:
        own = error(run, [])
        usual = median(past.duration_s for past in history)
        constant = sum(
            abs(max(0.0, usual - run.duration_s * part) - run.duration_s * (1 - part)) for part in LATE
        ) / len(LATE)
        assert error(run, history) < 0.5 * min(own, constant / run.duration_s)
        assert error(run, history, LATE) < 0.02


def test_estimate_improves_with_more_history() -> None:
    """The histories have none, one, three and twenty runs."""
    runs, history = jobs(8, seed=3), jobs(20, seed=4)
    means = [sum(error(run, history[:count]) for run in runs) / len(runs) for count in (0, 1, 3, 20)]
    assert means[0] > means[1] >= 0.9 * means[2] > 0.8 * means[3]
    assert means[3] < 0.02


def test_history_of_a_slow_machine_does_little_harm() -> None:
    """A quarter of the run is done."""
    history, runs = jobs(10, seed=5, pace=8.0), jobs(5, seed=6)
    assert all(error(run, history, LATE) < 0.05 for run in runs)


def test_history_of_another_shape_loses_to_the_own_rate() -> None:
    """The lookbacks show which one is right."""
    other = [trajectory(stepped([1.0] * 20 + [30.0] * 20)) for _ in range(5)]
    run = trajectory(steady())
    eta = estimate(seen(run, 60.0), 60.0, other)
    assert eta.remaining_s == pytest.approx(40.0, rel=0.1)
    assert eta.basis == "rate"


def test_estimate_follows_a_slowdown() -> None:
    """After half as much again the error is below 5 %."""
    run = trajectory(stepped([1.0] * 50 + [2.0] * 50))
    assert error(run, [], [0.67]) < 0.15
    assert error(run, [], [0.85, 0.9, 0.95]) < 0.05
    past = [trajectory(steady(pace, 100)) for pace in (98.0, 100.0, 103.0)]
    assert error(run, past, [0.6, 0.7]) < 0.15
    assert error(run, past, [0.85, 0.9, 0.95]) < 0.05


@pytest.mark.parametrize("history", [[], jobs(5, seed=7)])
def test_unannounced_pause_does_not_change_the_estimate(history: list[Trajectory]) -> None:
    """The pause takes ten minutes."""
    run = job(Random(8))
    at = 0.5 * run.duration_s
    before = estimate(seen(run, at), at, history)
    later = [(time + (600.0 if time > at else 0.0), done) for time, done in run.points]
    moment = later[len(seen(run, at))][0]
    after = estimate(later[: len(seen(run, at)) + 1], moment, history)
    assert before.remaining_s is not None
    assert after.remaining_s == pytest.approx(before.remaining_s, rel=0.15)


def test_gap_that_past_runs_have_is_no_pause() -> None:
    """Their curves stay valid."""
    gaps = [1.0] * 20 + [60.0] + [1.0] * 19
    past = [trajectory(stepped(gaps)) for _ in range(3)]
    run = trajectory(stepped([2.0 * gap for gap in gaps]))
    for at in (41.0, 100.0, 161.0, 170.0):
        assert estimate(seen(run, at), at, past).remaining_s == pytest.approx(run.duration_s - at, rel=0.02)


def test_slow_first_step_is_soon_ignored() -> None:
    """The error is at most 10 % after three more steps."""
    run = trajectory(stepped([30.0] + [1.0] * 49))
    left = run.duration_s - 33.0
    assert estimate(seen(run, 33.0), 33.0, []).remaining_s == pytest.approx(left, rel=0.10)


def test_estimate_after_the_total_grew_is_right_at_once() -> None:
    """The rate is that of the work done."""
    points = [(float(second), second / 100) for second in range(41)] + [
        (40.0, 0.2),
        (41.0, 0.205),
        (42.0, 0.21),
    ]
    assert estimate(points, 42.0, []).remaining_s == pytest.approx(158.0, rel=0.01)


def test_estimate_after_the_total_shrank_is_soon_right() -> None:
    """The error is at most 10 % after as much work again."""
    points = [(float(second), second / 200) for second in range(51)] + [
        (float(second), second / 100) for second in range(51, 76)
    ]
    assert estimate(points, 75.0, []).remaining_s == pytest.approx(25.0, rel=0.10)


def test_resumed_run_uses_the_rate_since_its_start() -> None:
    """Past runs may exist or not."""
    points = [(float(second), 0.5 + second / 100) for second in range(21)]
    assert estimate(points, 20.0, []).remaining_s == pytest.approx(30.0)
    assert estimate(points, 20.0, [trajectory(steady(50.0))] * 2).remaining_s == pytest.approx(30.0, rel=0.01)
    assert estimate(points[:1], 0.0, [trajectory(steady(50.0))]).remaining_s == pytest.approx(25.0)
    leaping = [(0.0, 0.0), *points]
    assert estimate(leaping, 20.0, []).remaining_s == pytest.approx(30.0)


def test_resumed_past_run_is_ignored_before_its_start() -> None:
    """It has no data for the first half."""
    half = trajectory([(float(second), 0.5 + second / 100) for second in range(51)])
    whole = trajectory(steady(400.0))
    assert estimate([(0.0, 0.0), (4.0, 0.01)], 4.0, [half, whole]).remaining_s == pytest.approx(396.0)


def test_estimate_at_fraction_one_is_the_tail_of_past_runs() -> None:
    """Without past runs no time is left."""
    done = steady(50.0)
    assert estimate(done, 50.0, [trajectory(steady(100.0), tail=10.0)]).remaining_s == pytest.approx(
        5.0, rel=0.15
    )
    eta = estimate(done, 50.5, [])
    assert (eta.remaining_s, eta.state) == (0.0, "holding")


def test_points_without_a_base_start_at_zero() -> None:
    """The base is (0, 0)."""
    assert estimate(steady()[1:21], 40.0, []) == estimate(steady()[:21], 40.0, [])


def test_repeated_points_are_ignored() -> None:
    """They bring no advance."""
    points = steady()[:21]
    doubled = [point for time, done in points for point in ((time, done), (time, done), (time + 1.0, done))]
    assert are_similar(estimate(doubled, 42.0, []), estimate(points, 42.0, []))


def test_estimate_from_many_points_is_right() -> None:
    """Only a part of them is used."""
    points = [(float(n), n / 200_000) for n in range(100_001)]
    assert estimate(points, 100_000.0, []).remaining_s == pytest.approx(100_000.0, rel=0.01)
    whole = [(float(n), n / 200_000) for n in range(200_001)]
    assert estimate(points, 100_000.0, [trajectory(whole)] * 3).remaining_s == pytest.approx(
        100_000.0, rel=0.01
    )


@pytest.mark.parametrize(
    ("points", "elapsed", "text"),
    [
        ([(0.0, 0.0), (1.0, nan)], 2.0, r"Invalid points\[1\] \(1.0, nan\): expected finite numbers"),
        ([(0.0, 0.0), (inf, 0.5)], 2.0, r"Invalid points\[1\] \(inf, 0.5\): expected finite numbers"),
        (
            [(0.0, 0.0), (5.0, 0.2), (4.0, 0.3)],
            6.0,
            r"Invalid points\[2\], time 4.0: expected ascending times, so at least 5.0",
        ),
        ([(-1.0, 0.0)], 6.0, r"Invalid points\[0\], time -1.0: expected ascending times, so at least 0.0"),
        ([(0.0, 0.0), (1.0, 50.0)], 2.0, r"Invalid points\[1\], fraction 50.0: expected 0 to 1"),
        ([(0.0, 0.0), (1.0, -0.1)], 2.0, r"Invalid points\[1\], fraction -0.1: expected 0 to 1"),
        ([(0.0, 0.0), (1.0, "half")], 2.0, r"Invalid points: expected pairs of numbers"),
        ([(0.0,), (1.0, 0.5)], 2.0, r"Invalid points: expected pairs of numbers"),
        (
            [(0.0, 0.0), (5.0, 0.5)],
            3.0,
            r"Invalid elapsed 3.0: expected at least the time of the last point \(5.0 s\)",
        ),
        ([], nan, r"Invalid elapsed nan: expected seconds from 0 to 1e\+15"),
        ([], -1.0, r"Invalid elapsed -1.0: expected seconds"),
    ],
)
def test_invalid_points_are_rejected(points: list[tuple[float, float]], elapsed: float, text: str) -> None:
    """The error names the value and what was expected."""
    with pytest.raises(ValueError, match=text):
        estimate(points, elapsed, [])


def test_invalid_history_or_confidence_is_rejected() -> None:
    """The error names the past run by its index."""
    good = trajectory(steady())
    with pytest.raises(RejectedValueError, match=r"Invalid history\[1\].duration_s nan: expected"):
        estimate([], 0.0, [good, Trajectory(nan)])
    with pytest.raises(
        RejectedValueError, match=r"Invalid history\[0\].points\[1\], fraction 2.0: expected 0 to 1"
    ):
        estimate([], 0.0, [Trajectory(5.0, [(0.0, 0.0), (5.0, 2.0)])])
    with pytest.raises(
        RejectedValueError,
        match=r"Invalid history\[0\].points, time 9.0: expected at most its duration of 5.0 s",
    ):
        estimate([], 0.0, [Trajectory(5.0, [(0.0, 0.0), (9.0, 1.0)])])
    for confidence in (0.0, 1.0, 80.0, nan):
        with pytest.raises(
            RejectedValueError, match=r"Invalid confidence .*: expected a share between 0 and 1"
        ):
            estimate([], 0.0, [good], confidence=confidence)


@settings(max_examples=scale_examples(60))
@given(steps=STEPS, since=st.floats(0.0, 1e6), history=PASTS)
def test_estimate_of_any_run_is_finite_and_ordered(
    steps: list[tuple[float, float]], since: float, history: list[Trajectory]
) -> None:
    """The state matches the values."""
    points = build_points(steps)
    eta = estimate(points, points[-1][0] + since, history)
    for value in (eta.remaining_s, eta.low_s, eta.high_s):
        assert value is None or (isfinite(value) and value >= 0.0)
    if eta.remaining_s is None:
        assert eta.state in ("stalled", "unknown")
        assert eta.high_s is None
    elif eta.low_s is not None and eta.high_s is not None:
        assert eta.low_s <= eta.remaining_s <= eta.high_s
    assert (eta.state == "stalled") == (eta.remaining_s is None and eta.low_s is not None)


@settings(max_examples=scale_examples(60))
@given(steps=STEPS, early=st.floats(0.0, 1e5), later=st.floats(0.0, 1e5), history=PASTS)
def test_estimate_ages_as_a_new_estimate(
    steps: list[tuple[float, float]], early: float, later: float, history: list[Trajectory]
) -> None:
    """Readers need no new estimate between advances."""
    points = [*build_points(steps), (2e4 * len(steps) + 1.0, 1.0)]
    at = points[-1][0] + min(early, later)
    until = points[-1][0] + max(early, later)
    first = estimate(points, at, history)
    edge = first.stalls_after_s is not None and abs(until - at - first.stalls_after_s) < 1e-6 * until
    assert edge or are_similar(first.at(until), estimate(points, until, history))


def test_estimate_counts_down_holds_and_stalls() -> None:
    """Only a lower bound remains at the end."""
    points, history = steady()[:26], [trajectory(steady(seconds)) for seconds in (98.0, 100.0, 104.0)]
    estimates = [estimate(points, 50.0 + since, history) for since in (0.0, 1.0, 1.9, 4.0, 5.9, 7.0, 1e5)]
    assert [eta.state for eta in estimates] == ["estimated"] * 3 + ["holding"] * 2 + ["stalled"] * 2
    remaining = [eta.remaining_s for eta in estimates[:5]]
    assert remaining == pytest.approx([50.0, 49.0, 48.1, 48.0, 48.0], rel=0.02)
    assert estimates[5].low_s == estimates[6].low_s
    assert estimates[5].low_s == pytest.approx(estimates[4].low_s)
    assert estimates[6].remaining_s is estimates[6].high_s is None


def test_runs_without_duration_are_accepted() -> None:
    """They took no time, now or in the past."""
    nothing = Trajectory(0.0, [(0.0, 0.0), (0.0, 1.0)])
    assert estimate([(0.0, 0.0)], 0.0, [nothing] * 4).remaining_s == 0.0
    assert estimate([(0.0, 0.0), (0.0, 0.5)], 0.0, []).state == "unknown"
    assert estimate([(0.0, 0.0), (0.0, 0.5), (1.0, 0.75)], 1.0, [nothing] * 4).remaining_s is not None


FINISHED = [(0.0, 0.0), (0.0, 1.0)]
ROUNDED = Trajectory(
    13986.125,
    [
        (0.0, 0.0),
        (0.0, 0.3657142857142857),
        (0.0, 0.7314285714285714),
        (0.0, 0.9142857142857143),
        (3986.125, 0.9142857142857143),
        (13986.125, 1.0),
    ],
)
OVERSHOOTING = Trajectory(100.0, [(0.0, 0.0), (100.00000005, 1.0)])


@pytest.mark.parametrize(
    ("points", "history"),
    [(FINISHED, [ROUNDED]), (FINISHED, [OVERSHOOTING] * 3), ([(0.0, 0.0), (90.0, 1.0)], [OVERSHOOTING] * 3)],
    ids=["interpolated time", "point after the duration", "point after the duration, scaled"],
)
def test_estimate_with_rounding_errors_is_not_negative(
    points: list[tuple[float, float]], history: list[Trajectory]
) -> None:
    """A finished run has no time left, although the times of past runs are rounded."""
    eta = estimate(points, points[-1][0], history)
    assert eta.remaining_s == eta.counts_down_s == 0.0
    assert [bound for bound in (eta.low_s, eta.high_s) if bound is not None and bound < 0.0] == []


def test_parallel_estimate_just_before_the_last_point_is_not_negative() -> None:
    """``elapsed`` may be slightly less than the time of the last point."""
    children = Parallel(ended=(0.0,), running=(), remaining=0, workers=1)
    eta = estimate([(0.0, 0.0), (90.0, 1.0)], 90.0 - 9e-7, [], parallel=children)
    assert eta.remaining_s == 0.0
