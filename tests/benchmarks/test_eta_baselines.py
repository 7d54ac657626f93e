"""Rules of other tools for the remaining time, by hand and against the tools."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from benchmarks import eta_baselines
from benchmarks.eta_baselines import Question, time_at
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm as real_tqdm

from otel_progress.records import Trajectory

SPEEDS = {
    "steady": [1.0] * 12,
    "slower": [1.0 + 0.4 * n for n in range(12)],
    "uneven": [0.3, 2.0, 0.05, 0.02, 4.0, 1.0, 0.7, 9.0, 0.2],
}


def test_average_uses_all_elapsed_time() -> None:
    """A quarter in 20 seconds leaves 60. Of a resumed run, only this session counts."""
    assert eta_baselines.average(Question(((0.0, 0.0), (10.0, 0.25)), 20.0, ())) == 60.0
    assert eta_baselines.average(Question(((0.0, 0.5), (10.0, 0.75)), 10.0, ())) == 10.0
    assert eta_baselines.average(Question(((0.0, 0.0),), 20.0, ())) is None


def test_tqdm_rule_matches_manual_computation() -> None:
    """The rule has the moving means of two updates.

    Work is 0.3·0.1, then 0.3·0.2 + 0.7·0.03. Time is 0.3·1, then 0.3·1 + 0.7·0.3. A poll a moment
    later changes nothing.
    """
    points = ((0.0, 0.0), (1.0, 0.1), (2.0, 0.3))
    assert eta_baselines.tqdm(Question(points, 2.5, ())) == pytest.approx(0.7 * 0.51 / 0.081)
    assert eta_baselines.tqdm(Question((*points, (2.05, 0.31)), 2.5, ())) == pytest.approx(
        0.69 * 0.51 / 0.081
    )
    assert eta_baselines.tqdm(Question(((0.0, 0.0), (0.05, 0.2)), 0.1, ())) == pytest.approx(
        0.4
    )  # Before any update: the average.


@pytest.mark.parametrize("steps", SPEEDS.values(), ids=SPEEDS)
def test_tqdm_rule_matches_tqdm(steps: Sequence[float]) -> None:
    """Skipping of updates is disabled in tqdm."""
    now = 0.0
    bar = real_tqdm(total=100, file=io.StringIO(), mininterval=0.1, miniters=1, maxinterval=0, smoothing=0.3)
    bar._time = lambda: now
    bar.start_t = bar.last_print_t = now
    points = [(0.0, 0.0)]
    for step in steps:
        now += step
        bar.update(5)
        points.append((now, points[-1][1] + 0.05))
    shown = bar.format_dict
    bar.close()
    left = eta_baselines.tqdm(Question(points, now, ()))
    assert left == pytest.approx((100 - shown["n"]) / shown["rate"])


@pytest.mark.parametrize("steps", SPEEDS.values(), ids=SPEEDS)
def test_rich_rule_matches_rich_before_rounding(steps: Sequence[float]) -> None:
    """Steps longer than its window are included."""
    now = 0.0
    display = Progress(console=Console(file=io.StringIO()), get_time=lambda: now)
    task = display.add_task("job", total=100)
    points = [(0.0, 0.0)]
    for step in steps:
        now += 5 * step
        display.advance(task, 5)
        points.append((now, points[-1][1] + 0.05))
    speed = display.tasks[0].speed
    left = eta_baselines.rich(Question(points, now, ()))
    assert speed is not None
    assert left == pytest.approx((100 - 5 * len(steps)) / speed)


def test_rich_rule_after_a_long_step_has_no_answer() -> None:
    """A step longer than the window leaves one sample, which has no rate."""
    assert eta_baselines.rich(Question(((0.0, 0.0), (10.0, 0.1), (50.0, 0.2)), 50.0, ())) is None


def test_median_of_history_minus_elapsed_time_is_not_negative() -> None:
    """Without history there is no answer."""
    history = [Trajectory(seconds) for seconds in (10.0, 60.0, 20.0)]
    assert eta_baselines.history_median(Question((), 5.0, history)) == 15.0
    assert eta_baselines.history_median(Question((), 30.0, history)) == 0.0
    assert eta_baselines.history_median(Question((), 30.0, ())) is None


def test_ninja_rule_uses_the_durations_of_the_last_run() -> None:
    """Half done by 60 s, and the last run took 70 s for the rest: 70 s are left."""
    last = Trajectory(100.0, ((0.0, 0.0), (30.0, 0.5), (100.0, 1.0)))
    older = Trajectory(1.0, ((0.0, 0.0), (1.0, 1.0)))
    points = ((0.0, 0.0), (60.0, 0.5))
    assert eta_baselines.ninja(Question(points, 65.0, (older, last))) == 70.0
    assert eta_baselines.ninja(Question(points, 65.0, ())) == 60.0
    assert eta_baselines.ninja(Question(((0.0, 0.0),), 65.0, (last,))) is None


def test_ninja_rule_with_tenfold_difference_uses_the_own_mean() -> None:
    """From 15 seconds and 5 % on. Before that, the last run's durations count."""
    last = Trajectory(10.0, ((0.0, 0.0), (5.0, 0.5), (10.0, 1.0)))
    assert eta_baselines.ninja(Question(((0.0, 0.0), (60.0, 0.5)), 60.0, (last,))) == 60.0
    assert eta_baselines.ninja(Question(((0.0, 0.0), (14.0, 0.1)), 14.0, (last,))) == 9.0


def test_time_at_interpolates_between_points() -> None:
    """Outside of the points, the first or the last one counts."""
    points = ((0.0, 0.25), (10.0, 0.5), (30.0, 0.75))
    assert [time_at(points, ratio) for ratio in (0.1, 0.25, 0.375, 0.5, 0.625, 0.9)] == [
        0.0,
        0.0,
        5.0,
        10.0,
        20.0,
        30.0,
    ]
    assert time_at((), 0.5) == 0.0
