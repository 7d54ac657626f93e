"""Scenarios of a run: each one makes the questions about a recorded run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.eta_baselines import Question, time_at
from benchmarks.eta_traces import Points, Run
from otel_progress.eta import Parallel
from otel_progress.records import Trajectory

GRID: Final = tuple(share / 100 for share in range(5, 100, 5))
"""Moments of the questions as ratios of the true duration."""
MOST_HISTORY: Final = 20
LEAST_HISTORY: Final = 3
_TOO_SMALL: Final = 0.8
_TOO_LARGE: Final = 1.25
_SLOWER: Final = 2.0
_PAUSE: Final = 0.5
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class Episode:
    """A run in a scenario.

    ``paused`` has the start and end of a pause in seconds. ``seen`` has the points as known then.
    """

    duration_s: float
    points: Points
    paused: tuple[float, float] | None = None
    seen: Callable[[Points, float], Points] | None = None

    def known(self, elapsed: float) -> Points:
        """Return the points known at a moment."""
        points = self.points[: bisect_right(self.points, elapsed, key=lambda point: point[0])]
        return points if self.seen is None else self.seen(points, elapsed)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the true remaining seconds, elapsed ratio, and pause state."""

    question: Question
    truth: float
    share: float
    pausing: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of situation.

    ``history`` is the maximum number of earlier runs. ``happen`` makes the episode, or None if the
    scenario does not apply. ``foreign`` uses the history of the same job on another system.
    ``children`` adds the state of the children.
    """

    name: str
    title: str
    happen: Callable[[Run], Episode | None]
    history: int = MOST_HISTORY
    foreign: bool = False
    children: bool = False


def questions(
    scenario: Scenario, run: Run, history: Sequence[Trajectory], known: Sequence[float] = ()
) -> Iterator[Asked]:
    """Return the questions about a run, none if the scenario does not apply.

    ``history`` has the earlier runs, ``known`` the stored durations of their children.
    """
    episode = scenario.happen(run)
    if episode is None or (scenario.children and not run.children):
        return
    for share in GRID:
        elapsed = share * episode.duration_s
        parallel = _parallel(run, elapsed, known) if scenario.children else None
        pausing = episode.paused is not None and episode.paused[0] <= elapsed < episode.paused[1]
        yield Asked(
            Question(episode.known(elapsed), elapsed, history, parallel),
            episode.duration_s - elapsed,
            share,
            pausing,
        )


def _parallel(run: Run, elapsed: float, known: Sequence[float]) -> Parallel:
    ended = [duration for start, duration in run.children if start + duration <= elapsed]
    running = [elapsed - start for start, duration in run.children if start <= elapsed < start + duration]
    return Parallel(
        ended=ended,
        running=running,
        remaining=len(run.children) - len(ended) - len(running),
        workers=run.workers or 1,
        known=known,
    )


def _as_it_was(run: Run) -> Episode:
    return Episode(run.duration_s, run.points)


def _unknown_total(run: Run) -> Episode:
    return Episode(run.duration_s, run.points, seen=lambda points, elapsed: ())


def _too_small(run: Run) -> Episode:
    def seen(points: Points, elapsed: float) -> Points:
        if elapsed >= _HALF * run.duration_s:
            return points
        return tuple((at, min(1.0, ratio / _TOO_SMALL)) for at, ratio in points)

    return Episode(run.duration_s, run.points, seen=seen)


def _too_large(run: Run) -> Episode:
    return Episode(run.duration_s, tuple((at, ratio / _TOO_LARGE) for at, ratio in run.points))


def _slower(run: Run) -> Episode:
    turn = _HALF * run.duration_s
    points = tuple((at if at <= turn else turn + _SLOWER * (at - turn), ratio) for at, ratio in run.points)
    return Episode(turn + _SLOWER * (run.duration_s - turn), points)


def _stalls(run: Run) -> Episode:
    turn, pause = _HALF * run.duration_s, _PAUSE * run.duration_s
    points = tuple((at if at <= turn else at + pause, ratio) for at, ratio in run.points)
    return Episode(run.duration_s + pause, points, paused=(turn, turn + pause))


def _resumes(run: Run) -> Episode | None:
    start = time_at(run.points, _HALF)
    if run.points[-1][1] <= _HALF or start >= run.duration_s:
        return None
    rest = ((at - start, ratio) for at, ratio in run.points if ratio > _HALF)
    return Episode(run.duration_s - start, ((0.0, _HALF), *rest))


SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario("history", "3 to 20 runs of history", _as_it_was),
    Scenario("no history", "No history", _as_it_was, history=0),
    Scenario("1 run", "1 run of history", _as_it_was, history=1),
    Scenario("3 runs", "3 runs of history", _as_it_was, history=3),
    Scenario("foreign", "Foreign history: the same job on another system", _as_it_was, foreign=True),
    Scenario("unknown total", "The total is unknown; only past durations can help", _unknown_total),
    Scenario("total too small", "The total is 20 % too small, corrected at half of the time", _too_small),
    Scenario("total too large", "The total is 25 % too large, and never corrected", _too_large),
    Scenario("slowdown", "Half the speed from half of the run on", _slower),
    Scenario("stall", "At half of the run nothing advances for half as long as the run takes", _stalls),
    Scenario("resume", "Resumed at half: the first half was done by an earlier session", _resumes),
    Scenario("children", "Children on workers, with what each of them is doing", _as_it_was, children=True),
    Scenario("children, no history", "Children on workers, no history", _as_it_was, history=0, children=True),
)
"""All scenarios in the order of the report."""
