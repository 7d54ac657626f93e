"""Cache of backtested histories: reuse, limits, threads and forks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_progress.eta import Trajectory, cache, estimate
from otel_progress.eta.backtest import Backtest, run_backtest
from otel_progress.eta.cache import MAX_HISTORIES, clear_cache
from otel_progress.eta.curves import Curve
from tests.support.forks import needs_fork, run_in_child_forked_under
from tests.support.sample_runs import jobs


@pytest.fixture
def backtests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Record the length of each backtested history, with an empty cache."""
    lengths: list[int] = []
    real = run_backtest

    def record(history: list[Curve]) -> Backtest:
        lengths.append(len(history))
        return real(history)

    monkeypatch.setattr(cache, "run_backtest", record)
    clear_cache()
    yield lengths
    clear_cache()


def copy_history(history: list[Trajectory]) -> list[Trajectory]:
    """Return equal runs as other objects, like those of a journal."""
    return [Trajectory(run.duration_s, list(run.points), dict(run.stages)) for run in history]


def test_cache_with_the_same_or_equal_runs_is_hit(backtests: list[int]) -> None:
    """One backtest serves all of them."""
    history = jobs(6)
    told = [
        estimate([(0.0, 0.0), (9.0, 0.1)], 9.0, past)
        for past in (history, list(history), tuple(history), copy_history(history))
    ]
    assert backtests == [6]
    assert told[1:] == told[:1] * 3


def test_cache_with_equal_durations_and_other_points_is_missed(backtests: list[int]) -> None:
    """The points are compared."""
    history = jobs(4)
    estimate([], 0.0, history)
    changed = [*history[:3], Trajectory(history[3].duration_s, list(history[3].points[:-3]))]
    estimate([], 0.0, changed)
    assert backtests == [4, 4]


def test_history_beyond_twenty_runs_uses_the_latest(backtests: list[int]) -> None:
    """Older runs are ignored."""
    history = jobs(23)
    eta = estimate([(0.0, 0.0), (9.0, 0.1)], 9.0, history)
    assert eta == estimate([(0.0, 0.0), (9.0, 0.1)], 9.0, history[-20:])
    assert eta.runs == 20
    assert backtests == [20]


def test_cache_beyond_its_limit_evicts_the_least_recently_used(backtests: list[int]) -> None:
    """The evicted history is backtested again."""
    histories = [[Trajectory(float(n))] for n in range(MAX_HISTORIES + 1)]
    for history in histories:
        estimate([], 0.0, history)
    estimate([], 0.0, histories[-1])
    assert len(backtests) == MAX_HISTORIES + 1
    estimate([], 0.0, histories[0])
    assert len(backtests) == MAX_HISTORIES + 2


@pytest.mark.usefixtures("backtests")
def test_cache_used_by_many_threads_gives_the_same_estimates() -> None:
    """There are more histories than the cache holds."""
    histories = [jobs(2, seed=seed) for seed in range(MAX_HISTORIES + 10)]
    points = [(0.0, 0.0), (9.0, 0.1), (12.0, 0.2)]
    alone = [estimate(points, 12.0, history) for history in histories]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda history: estimate(points, 12.0, history), histories)) == alone


@needs_fork
@pytest.mark.usefixtures("backtests")
def test_cache_after_fork_under_its_lock_is_usable() -> None:
    """The fork waits until the other thread has released the lock."""
    history = jobs(4)
    points = [(0.0, 0.0), (9.0, 0.1)]
    assert run_in_child_forked_under(cache._lock, lambda: estimate(points, 9.0, history)) == 0
