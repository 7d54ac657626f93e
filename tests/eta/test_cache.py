"""What a history teaches is worked out once: found again by the same runs, bounded, and by threads together."""

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
def learned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note how long each history was of which the record was worked out; nothing is remembered from before."""
    lengths: list[int] = []
    real = run_backtest

    def record(history: list[Curve]) -> Backtest:
        lengths.append(len(history))
        return real(history)

    monkeypatch.setattr(cache, "run_backtest", record)
    clear_cache()
    yield lengths
    clear_cache()


def copied(history: list[Trajectory]) -> list[Trajectory]:
    """Return equal runs that are other objects, as a journal gives them."""
    return [Trajectory(run.duration_s, list(run.points), dict(run.stages)) for run in history]


def test_same_runs_are_found_again(learned: list[int]) -> None:
    """The same trajectories in another list, and equal ones read anew, need nothing to be worked out."""
    history = jobs(6)
    told = [
        estimate([(0.0, 0.0), (9.0, 0.1)], 9.0, past)
        for past in (history, list(history), tuple(history), copied(history))
    ]
    assert learned == [6]
    assert told[1:] == told[:1] * 3


def test_other_runs_are_not(learned: list[int]) -> None:
    """Runs of the same durations and another course are others."""
    history = jobs(4)
    estimate([], 0.0, history)
    changed = [*history[:3], Trajectory(history[3].duration_s, list(history[3].points[:-3]))]
    estimate([], 0.0, changed)
    assert learned == [4, 4]


def test_the_last_twenty_count(learned: list[int]) -> None:
    """Of more past runs the oldest are left out."""
    history = jobs(23)
    eta = estimate([(0.0, 0.0), (9.0, 0.1)], 9.0, history)
    assert eta == estimate([(0.0, 0.0), (9.0, 0.1)], 9.0, history[-20:])
    assert eta.runs == 20
    assert learned == [20]


def test_bounded(learned: list[int]) -> None:
    """Of many histories the least recently used is forgotten."""
    histories = [[Trajectory(float(n))] for n in range(MAX_HISTORIES + 1)]
    for history in histories:
        estimate([], 0.0, history)
    estimate([], 0.0, histories[-1])
    assert len(learned) == MAX_HISTORIES + 1
    estimate([], 0.0, histories[0])
    assert len(learned) == MAX_HISTORIES + 2


@pytest.mark.usefixtures("learned")
def test_from_many_threads() -> None:
    """Threads that ask at once, of more histories than are kept, get what one alone gets."""
    histories = [jobs(2, seed=seed) for seed in range(MAX_HISTORIES + 10)]
    points = [(0.0, 0.0), (9.0, 0.1), (12.0, 0.2)]
    alone = [estimate(points, 12.0, history) for history in histories]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda history: estimate(points, 12.0, history), histories)) == alone


@needs_fork
@pytest.mark.usefixtures("learned")
def test_cache_after_fork_under_its_lock_is_usable() -> None:
    """The child can estimate, because the fork waits until the other thread has released the lock."""
    history = jobs(4)
    points = [(0.0, 0.0), (9.0, 0.1)]
    assert run_in_child_forked_under(cache._lock, lambda: estimate(points, 9.0, history)) == 0
