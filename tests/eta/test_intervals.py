"""Intervals: they cover as often as asked, and say nothing where nothing can be said."""

from __future__ import annotations

from random import Random

import pytest

from otel_progress.eta import Trajectory, estimate
from otel_progress.eta.intervals import compute_small_sample_factor
from otel_progress.quantiles import expected_rank_quantile
from tests.support.sample_runs import ASKED, asked, job, jobs, seen, steady, stepped, trajectory


def coverage(confidence: float, histories: int, length: int) -> float:
    """Return the share of intervals that held the truth, for runs of many jobs with histories of this length."""
    held = []
    for seed in range(histories):
        history = jobs(length, seed=seed)
        for run in jobs(3, seed=1000 + seed):
            for part in ASKED[::3]:
                left, eta = asked(run, history, part, confidence)
                assert eta.low_s is not None
                assert eta.high_s is not None
                held.append(eta.low_s <= left <= eta.high_s)
    return sum(held) / len(held)


@pytest.mark.parametrize(("length", "histories"), [(3, 40), (8, 15)])
def test_coverage(length: int, histories: int) -> None:
    """Four of five intervals at 0.8 hold the truth, with three past runs as with eight."""
    assert 0.73 <= coverage(0.8, histories, length) <= 0.88


def test_confidence_is_what_was_asked() -> None:
    """A higher confidence gives a wider interval, and covers more often."""
    half, nearly_all = coverage(0.5, 12, 8), coverage(0.95, 12, 8)
    assert 0.4 <= half <= 0.65
    assert nearly_all >= 0.9
    run, history = job(Random(9)), jobs(8)
    widths = []
    for confidence in (0.5, 0.8, 0.95):
        eta = asked(run, history, 0.5, confidence)[1]
        assert eta.low_s is not None
        assert eta.high_s is not None
        widths.append(eta.high_s - eta.low_s)
    assert widths == sorted(widths)


def test_none_under_three_runs() -> None:
    """Two past runs are no statistics: there is no interval, by curves and by durations."""
    run = job(Random(1))
    for history in ([], jobs(1), jobs(2)):
        eta = asked(run, history, 0.5)[1]
        assert (eta.low_s, eta.high_s, eta.runs) == (None, None, len(history))
        assert estimate([], 1.0, [Trajectory(past.duration_s) for past in history]).low_s is None
    assert asked(run, jobs(3), 0.5)[1].low_s is not None


def test_wider_where_the_run_deviates() -> None:
    """A run that went unlike past ones so far gets a wider interval than one that went like them."""
    history = [trajectory(steady(seconds)) for seconds in (99.0, 100.0, 101.0, 100.5, 99.5)]
    even = trajectory(steady(100.0))
    uneven = trajectory(stepped([2.8] * 15 + [1.2] * 15 + [2.0] * 20))
    widths = []
    for run in (even, uneven):
        eta = estimate(seen(run, 60.0), 60.0, history)
        assert eta.low_s is not None
        assert eta.high_s is not None
        widths.append(eta.high_s - eta.low_s)
    assert widths[1] > 2.0 * widths[0]


def elsewhere(random: Random) -> Trajectory:
    """Return a run of the job on a machine that is eight times as slow, and in the middle third only six times; with hardly any noise."""
    shape = [8.0] + [2.25 if 40 / 3 < n < 80 / 3 else 1.0 for n in range(1, 40)]
    return trajectory(stepped([8.0 * gap * random.uniform(0.98, 1.02) for gap in shape]), tail=8.0)


def test_history_of_another_machine() -> None:
    """With past runs of another pace and shape, and more alike than this one, most intervals hold the truth all the same."""
    held = []
    for seed in range(8):
        random = Random(seed)
        history = [elsewhere(random) for _ in range(8)]
        for run in jobs(3, seed=2000 + seed):
            for part in ASKED[5:]:
                left, eta = asked(run, history, part)
                assert eta.low_s is not None
                assert eta.high_s is not None
                held.append(eta.low_s <= left <= eta.high_s)
    assert sum(held) / len(held) > 0.65


def test_runs_that_are_all_the_same() -> None:
    """Where past runs took exactly as long the interval has no width, and neither is below 0."""
    eta = estimate(steady()[:26], 50.0, [trajectory(steady())] * 4)
    assert (eta.low_s, eta.remaining_s, eta.high_s) == pytest.approx((50.0, 50.0, 50.0))


def test_quantile() -> None:
    """Between two values by interpolation, at the rule level x (n + 1), and never outside of them."""
    assert expected_rank_quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert expected_rank_quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert expected_rank_quantile([1.0, 2.0], 0.99) == 2.0
    assert expected_rank_quantile([1.0, 2.0], 0.01) == 1.0


@pytest.mark.parametrize(
    ("runs", "confidence", "student", "normal"),
    [
        (3, 0.8, 1.8856, 1.2816),
        (4, 0.8, 1.6377, 1.2816),
        (6, 0.9, 2.0150, 1.6449),
        (20, 0.95, 2.0930, 1.9600),
        (3, 0.95, 4.3027, 1.9600),
    ],
)
def test_widening_for_few_runs(runs: int, confidence: float, student: float, normal: float) -> None:
    """It is Student's quantile (as tables have it) over the normal one, less what one run more makes better."""
    assert compute_small_sample_factor(runs, confidence) == pytest.approx(
        student / normal * (1 - 1 / runs**2) ** 0.5, rel=0.01
    )
