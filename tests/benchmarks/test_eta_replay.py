"""The replay of recorded runs: its questions and figures, computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from benchmarks.eta_replay import OURS, Series, Sums, replay, replay_series, series_of
from benchmarks.eta_scenarios import GRID, SCENARIOS, questions
from benchmarks.eta_scores import mean, score
from benchmarks.eta_traces import Run

from otel_progress import Eta
from otel_progress.records import Trajectory
from tests.support.eta_replays import BY_NAME, STEADY, asked_at, make_estimate, steady


def test_questions_have_only_the_points_known_then() -> None:
    """The true answer is the rest of the duration."""
    everything = list(questions(BY_NAME["history"], steady(0), ()))
    assert [one.share for one in everything] == list(GRID) == [share / 100 for share in range(5, 100, 5)]
    for one in everything:
        assert one.question.points == tuple(point for point in STEADY if point[0] <= one.question.elapsed)
        assert one.question.elapsed + one.truth == pytest.approx(10.0)


def test_runs_with_unknown_or_wrong_total() -> None:
    """Unknown: no points. Too small: ratios a quarter too high until half of the time.

    Too large: ratios a fifth too low until the end.
    """
    assert asked_at("unknown total", steady(0), 0.5).question.points == ()
    assert asked_at("total too small", steady(0), 0.45).question.points[-1] == (4.0, pytest.approx(0.5))
    assert asked_at("total too small", steady(0), 0.5).question.points == STEADY[:6]
    assert asked_at("total too large", steady(0), 0.9).question.points[-1] == (9.0, pytest.approx(0.72))


def test_slowdown_doubles_the_second_half() -> None:
    """Ten seconds become fifteen, and each step after the half takes two."""
    one = asked_at("slowdown", steady(0), 0.6)
    assert (one.question.elapsed, one.truth) == (9.0, 6.0)
    assert one.question.points[-2:] == ((7.0, 0.6), (9.0, 0.7))


def test_stall_inserts_a_pause_in_the_middle() -> None:
    """Nothing advances for five seconds from the fifth on.

    Only questions in between are in a pause.
    """
    everything = list(questions(BY_NAME["stall"], steady(0), ()))
    pausing = [one for one in everything if one.pausing]
    assert [one.share for one in pausing] == [0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65]
    assert {one.question.points[-1] for one in pausing} == {(5.0, 0.5)}
    assert asked_at("stall", steady(0), 0.75).question.points[-1] == (11.0, 0.6)
    assert asked_at("stall", steady(0), 0.75).truth == pytest.approx(3.75)


def test_resumed_run_starts_at_half() -> None:
    """The base is (0, 0.5). A run without a point beyond half cannot be resumed."""
    one = asked_at("resume", steady(0), 0.4)
    assert one.question.points == ((0.0, 0.5), (1.0, 0.6), (2.0, 0.7))
    assert (one.question.elapsed, one.truth) == (2.0, 3.0)
    assert list(questions(BY_NAME["resume"], Run("job", "here", 0, 10.0, STEADY[:5]), ())) == []


def test_children_have_their_current_state() -> None:
    """Ended children have their duration, running ones their elapsed time."""
    run = steady(0, children=((0.0, 2.0), (0.5, 4.0), (2.0, 1.0), (6.0, 4.0)), workers=2)
    parallel = asked_at("children", run, 0.25).question.parallel
    assert parallel is not None
    assert (list(parallel.ended), list(parallel.running), parallel.remaining, parallel.workers) == (
        [2.0],
        [2.0, 0.5],
        1,
        2,
    )
    assert list(questions(BY_NAME["children"], steady(0), ())) == []


def histories(scenario: str, runs: Sequence[Run], foreign: Sequence[Trajectory] = ()) -> list[list[float]]:
    """Return the durations of the history for each run, in order."""
    seen: list[list[float]] = []

    def answer(points: Any, elapsed: float, history: Sequence[Trajectory], parallel: Any = None) -> Eta:  # noqa: ARG001 - as estimate
        durations = [past.duration_s for past in history]
        if not seen or seen[-1] is not durations:
            seen.append(durations)
        return make_estimate(1.0)

    replay_series(Series(runs, foreign), [BY_NAME[scenario]], answer)
    return seen[:: len(GRID)]


def test_runs_have_earlier_runs_as_history() -> None:
    """From the fourth run on, the limit is twenty or that of the scenario."""
    runs = [steady(number, 10.0 + number) for number in range(25)]
    full = histories("history", runs)
    assert full[0] == [10.0, 11.0, 12.0]
    assert full[-1] == [14.0 + number for number in range(20)]
    assert len(full) == 22
    assert histories("1 run", runs)[-1] == [33.0]
    assert histories("3 runs", runs)[-1] == [31.0, 32.0, 33.0]
    assert histories("no history", runs)[-1] == []
    assert histories("foreign", runs, [Trajectory(99.0)])[0] == [99.0]
    assert histories("foreign", runs) == []


def test_foreign_history_is_the_next_system_of_the_same_job() -> None:
    """Systems with too few runs and other jobs do not count."""
    groups = {
        (workload, system): [steady(number, duration, workload, system) for number in range(count)]
        for workload, system, duration, count in (
            ("a", "x", 1.0, 3),
            ("a", "y", 2.0, 4),
            ("a", "z", 3.0, 2),
            ("b", "x", 4.0, 3),
        )
    }
    made = {
        (one.runs[0].workload, one.runs[0].system): {past.duration_s for past in one.foreign}
        for one in series_of(groups)
    }
    assert made == {("a", "x"): {2.0}, ("a", "y"): {1.0}, ("a", "z"): {1.0}, ("b", "x"): set()}


def test_figures_of_answers_with_one_second_error() -> None:
    """The error is a tenth of ten seconds, and 1/9.5 to 1/0.5 of the rest.

    The predicted end never jumps, and half of the intervals include the truth.
    """
    runs = [steady(number) for number in range(4)]

    def answer(points: Any, elapsed: float, history: Any, parallel: Any = None) -> Eta:  # noqa: ARG001 - as estimate
        return make_estimate(
            11.0 - elapsed, 10.0 - elapsed if elapsed < 5.0 else 10.5 - elapsed, 12.0 - elapsed
        )

    results = replay_series(Series(runs), [BY_NAME["history"]], answer)
    ours = score(results["history", "job", OURS])
    assert (ours.questions, ours.answered) == (19, 1.0)
    assert [ours.error, ours.error_late, ours.error_early] == [pytest.approx(0.1)] * 3
    assert ours.rest == pytest.approx(sum(1 / (10 - share * 10) for share in GRID) / 19)
    assert ours.rest_early == pytest.approx((1 / 9.5 + 1 / 9 + 1 / 8.5 + 1 / 8) / 4)
    assert ours.jumps == pytest.approx(0.0)
    assert ours.coverage == pytest.approx(9 / 19)
    assert ours.width == pytest.approx((9 * 0.2 + 10 * 0.15) / 19)
    exact = score(results["history", "job", "median"])
    assert (exact.error, exact.jumps, exact.coverage) == (pytest.approx(0.0), pytest.approx(0.0), None)


def test_jumps_are_added_up() -> None:
    """A predicted end that alternates by two of ten seconds, 18 times, varies by 3.6.

    Missing answers are skipped.
    """
    answers = iter([2.0, 0.0, None] * 19)

    def answer(points: Any, elapsed: float, history: Any, parallel: Any = None) -> Eta:  # noqa: ARG001 - as estimate
        shift = next(answers)
        return make_estimate(None if shift is None else 10.0 - elapsed + shift)

    ours = score(
        replay_series(Series([steady(number) for number in range(4)]), [BY_NAME["history"]], answer)[
            "history", "job", OURS
        ]
    )
    assert ours.answered == pytest.approx(13 / 19)
    assert ours.jumps == pytest.approx(12 * 0.2)


def test_at_least_counts_in_a_pause_only() -> None:
    """In a pause, a lower bound is counted and compared with the truth."""

    def answer(points: Any, elapsed: float, history: Any, parallel: Any = None) -> Eta:  # noqa: ARG001 - as estimate
        return make_estimate(None, 7.0 if elapsed < 8.0 else 8.0, None, "stalled")

    ours = score(
        replay_series(Series([steady(number) for number in range(4)]), [BY_NAME["stall"]], answer)[
            "stall", "job", OURS
        ]
    )
    assert (ours.answered, ours.error, ours.jumps, ours.coverage) == (0.0, None, None, None)
    assert (
        ours.at_least == 1.0
    )  # True values are 9.75 to 5.25 in steps of 0.75. The bound is 7 until 8 s and 8 afterwards.
    assert ours.at_least_true == pytest.approx(4 / 7)


@pytest.mark.process
def test_replay_in_two_processes_has_the_same_sums() -> None:
    """The sums are those of one process."""
    here = [steady(number, 10.0 + number % 3, "a", "x") for number in range(5)]
    there = [steady(number, 8.0, "a", "y") for number in range(5)]
    series = series_of({("a", "x"): here, ("a", "y"): there})
    chosen = [BY_NAME["history"], BY_NAME["foreign"]]
    alone, shared = replay(series, chosen, processes=1), replay(series, chosen, processes=2)
    assert alone.keys() == shared.keys()
    for key, sums in alone.items():
        assert sums.questions == shared[key].questions > 0
        assert sums.error == pytest.approx(shared[key].error)


def test_steady_job_is_predicted_exactly() -> None:
    """Without a disturbance, the estimator always answers with hardly an error."""
    results = replay_series(
        Series([steady(number) for number in range(5)], (steady(9).trajectory,) * 3), SCENARIOS
    )
    for name in ("history", "1 run", "3 runs", "foreign", "resume"):
        ours = score(results[name, "job", OURS])
        assert ours.error is not None
        assert ours.error < 0.01, name
        assert ours.answered == 1.0, name
    assert score(results["unknown total", "job", OURS]).error == pytest.approx(0.0)
    assert score(results["unknown total", "job", "tqdm"]).answered == 0.0


def test_mean_weighs_workloads_equally() -> None:
    """The number of runs does not matter. Missing figures are ignored."""
    one = score(
        Sums(questions=100, answers=100, error=10.0, late_answers=100, late_error=10.0, runs=10, jumps=1.0)
    )
    two = score(
        Sums(questions=10, answers=5, error=1.5, runs=1, jumps=0.3, intervals=4, covered=3, width=2.0)
    )
    both = mean([one, two])
    assert (both.questions, both.answered) == (110, pytest.approx(0.75))
    assert both.error == pytest.approx((0.1 + 0.3) / 2)
    assert both.error_late == pytest.approx(0.1)
    assert both.error_early == pytest.approx(0.3)
    assert (both.coverage, both.width, both.jumps) == (0.75, 0.5, pytest.approx(0.2))
