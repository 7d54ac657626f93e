"""Replay: questions about every run on a grid of time, and sums of the answers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Final, TypeAlias

from benchmarks.eta_baselines import BASELINES
from benchmarks.eta_scenarios import LEAST_HISTORY, MOST_HISTORY, Asked, Scenario, questions
from benchmarks.eta_traces import Groups, Run
from otel_progress.eta import estimate
from otel_progress.model import Eta
from otel_progress.records import Trajectory

OURS: Final = "otel-progress"
LATE: Final = 0.25
_ROUNDING: Final = 1e-9
_PROCESSES: Final = 2
_WORTH_SHARING: Final = 300
"""Minimum number of runs for a second process, which takes time to start."""


@dataclass(slots=True)
class Sums:
    """Sums over the answers to all questions, late ones (from 25 % on), and pauses."""

    questions: int = 0
    answers: int = 0
    error: float = 0.0
    share_of_rest: float = 0.0
    late_answers: int = 0
    late_error: float = 0.0
    late_share_of_rest: float = 0.0
    intervals: int = 0
    covered: int = 0
    width: float = 0.0
    runs: int = 0
    jumps: float = 0.0
    pausing: int = 0
    at_least: int = 0
    at_least_true: int = 0

    def add(self, other: Sums) -> None:
        """Add the sums of other questions."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def answered(self, asked: Asked, remaining: float, duration: float) -> None:
        """Count an answer and its error."""
        error = abs(remaining - asked.truth)
        self.answers += 1
        self.error += error / duration
        self.share_of_rest += error / asked.truth
        if asked.share >= LATE:
            self.late_answers += 1
            self.late_error += error / duration
            self.late_share_of_rest += error / asked.truth

    def bounded(self, asked: Asked, eta: Eta, duration: float) -> None:
        """Count an interval, or a lower bound in a pause."""
        if eta.low_s is not None and eta.high_s is not None:
            slack = _ROUNDING * duration
            self.intervals += 1
            self.covered += eta.low_s - slack <= asked.truth <= eta.high_s + slack
            self.width += (eta.high_s - eta.low_s) / duration
        elif asked.pausing and eta.state == "stalled" and eta.low_s is not None:
            self.at_least += 1
            self.at_least_true += eta.low_s <= asked.truth


_SUMS: Final = tuple(field.name for field in fields(Sums))
Key: TypeAlias = "tuple[str, str, str]"
"""Scenario, workload and estimator."""
Results: TypeAlias = "dict[Key, Sums]"
Estimate: TypeAlias = "Callable[..., Eta]"


@dataclass(frozen=True, slots=True)
class Series:
    """Runs of one job on one system in order, with the history of another system.

    The foreign history is empty if there is no other system.
    """

    runs: Sequence[Run]
    foreign: Sequence[Trajectory] = field(default=())


def series_of(groups: Groups) -> list[Series]:
    """Return the runs of each job and system with a foreign history.

    It is that of the next system by name that has enough runs of the job.
    """
    made = []
    for (workload, system), runs in groups.items():
        others = [
            key
            for key in groups
            if key[0] == workload and key[1] != system and len(groups[key]) >= LEAST_HISTORY
        ]
        later = [key for key in others if key[1] > system] or others
        foreign = tuple(run.trajectory for run in groups[later[0]][:MOST_HISTORY]) if later else ()
        made.append(Series(runs, foreign))
    return made


def replay(series: Sequence[Series], scenarios: Sequence[Scenario], processes: int | None = None) -> Results:
    """Ask all questions and return the sums. Much work is split between two processes."""
    if processes is None:
        much = sum(len(one.runs) for one in series) >= _WORTH_SHARING
        processes = min(_PROCESSES, os.cpu_count() or 1, len(series)) if much else 1
    results: Results = {}
    if processes <= 1:
        parts: Iterator[Results] = (replay_series(one, scenarios) for one in series)
        return _gathered(parts, results)
    longest_first = sorted(series, key=lambda one: -sum(len(run.points) for run in one.runs))
    # Spawned, not forked: a forked child may inherit a lock that another thread holds.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return _gathered(pool.map(replay_series, longest_first, [scenarios] * len(series)), results)


def _gathered(parts: Iterator[Results], results: Results) -> Results:
    for part in parts:
        for key, sums in part.items():
            results.setdefault(key, Sums()).add(sums)
    return results


def replay_series(series: Series, scenarios: Sequence[Scenario], answer: Estimate = estimate) -> Results:
    """Ask about every run with enough earlier runs, in every scenario.

    The runs are the same with little and with much history, so that only the history differs.
    """
    results: Results = {}
    past = [run.trajectory for run in series.runs]
    for place in range(LEAST_HISTORY, len(series.runs)):
        run = series.runs[place]
        pasts: dict[tuple[int, bool], tuple[Trajectory, ...]] = {}
        for scenario in scenarios:
            which = (scenario.history, scenario.foreign)
            if which not in pasts:  # One object for all scenarios, because it is one history.
                pasts[which] = tuple(
                    series.foreign if scenario.foreign else past[max(0, place - scenario.history) : place]
                )
            if scenario.foreign and not pasts[which]:
                continue
            known = (
                [duration for before in series.runs[:place] for _, duration in before.children]
                if scenario.history
                else []
            )
            asked = list(questions(scenario, run, pasts[which], known[-MOST_HISTORY:]))
            if asked:
                for name, sums in _judge(asked, answer).items():
                    results.setdefault((scenario.name, run.workload, name), Sums()).add(sums)
    return results


def _judge(asked: Sequence[Asked], answer: Estimate) -> Mapping[str, Sums]:
    """Return the sums of all estimators for the questions about one run."""
    judged = {OURS: Sums(questions=len(asked), runs=1, pausing=sum(one.pausing for one in asked))}
    etas = [
        answer(
            one.question.points, one.question.elapsed, one.question.history, parallel=one.question.parallel
        )
        for one in asked
    ]
    for one, eta in zip(asked, etas, strict=True):
        judged[OURS].bounded(one, eta, duration(one))
    _count(judged[OURS], asked, [eta.remaining_s for eta in etas])
    for name, rule in BASELINES.items():
        judged[name] = Sums(questions=len(asked), runs=1)
        _count(judged[name], asked, [rule(one.question) for one in asked])
    return judged


def _count(sums: Sums, asked: Sequence[Asked], answers: Sequence[float | None]) -> None:
    ends = []
    for one, remaining in zip(asked, answers, strict=True):
        if remaining is not None:
            sums.answered(one, remaining, duration(one))
            ends.append(one.question.elapsed + remaining)
    sums.jumps += sum(abs(after - before) for before, after in pairwise(ends)) / duration(asked[0])


def duration(asked: Asked) -> float:
    """Return the true duration of the run of a question."""
    return asked.question.elapsed + asked.truth
