"""Prediction intervals: coverage, width, and histories that are too short."""

from __future__ import annotations

from random import Random

import pytest

from otel_progress.eta import Trajectory, estimate
from otel_progress.eta.intervals import compute_small_sample_factor
from otel_progress.quantiles import expected_rank_quantile
from tests.support.sample_runs import ASKED, asked, job, jobs, seen, steady, stepped, trajectory


def measure_coverage(confidence: float, histories: int, length: int) -> float:
    """Return the share of intervals that contain the true end, over many jobs."""
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
def test_intervals_cover_as_requested(length: int, histories: int) -> None:
    """The confidence is 0.8, with three and with eight past runs."""
    assert 0.73 <= measure_coverage(0.8, histories, length) <= 0.88


def test_higher_confidence_gives_wider_intervals() -> None:
    """They cover more often."""
    half, nearly_all = measure_coverage(0.5, 12, 8), measure_coverage(0.95, 12, 8)
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


def test_interval_with_fewer_than_three_runs_is_absent() -> None:
    """The history consists of curves or of durations."""
    run = job(Random(1))
    for history in ([], jobs(1), jobs(2)):
        eta = asked(run, history, 0.5)[1]
        assert (eta.low_s, eta.high_s, eta.runs) == (None, None, len(history))
        assert estimate([], 1.0, [Trajectory(past.duration_s) for past in history]).low_s is None
    assert asked(run, jobs(3), 0.5)[1].low_s is not None


def test_interval_of_a_deviating_run_is_wider() -> None:
    """It is compared with a run like past ones."""
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


def build_foreign_run(random: Random) -> Trajectory:
    """Return a run of a machine that is six to eight times as slow, with little noise."""
    shape = [8.0] + [2.25 if 40 / 3 < n < 80 / 3 else 1.0 for n in range(1, 40)]
    return trajectory(stepped([8.0 * gap * random.uniform(0.98, 1.02) for gap in shape]), tail=8.0)


def test_intervals_with_a_foreign_history_mostly_cover() -> None:
    """Past runs have another rate and shape."""
    held = []
    for seed in range(8):
        random = Random(seed)
        history = [build_foreign_run(random) for _ in range(8)]
        for run in jobs(3, seed=2000 + seed):
            for part in ASKED[5:]:
                left, eta = asked(run, history, part)
                assert eta.low_s is not None
                assert eta.high_s is not None
                held.append(eta.low_s <= left <= eta.high_s)
    assert sum(held) / len(held) > 0.65


def test_interval_of_identical_runs_has_no_width() -> None:
    """No bound is negative."""
    eta = estimate(steady()[:26], 50.0, [trajectory(steady())] * 4)
    assert (eta.low_s, eta.remaining_s, eta.high_s) == pytest.approx((50.0, 50.0, 50.0))


def test_expected_rank_quantile_interpolates_within_the_values() -> None:
    """The position is level x (n + 1)."""
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
def test_small_sample_factor_matches_tables(
    runs: int, confidence: float, student: float, normal: float
) -> None:
    """It is Student's quantile over the normal one, slightly narrowed."""
    assert compute_small_sample_factor(runs, confidence) == pytest.approx(
        student / normal * (1 - 1 / runs**2) ** 0.5, rel=0.01
    )
