"""Rules of other tools for the remaining time, without their displays.

Each rule takes a :class:`Question` and returns the remaining seconds that the tool would show, or
None if it shows nothing. The value is constant until the next advance, as in the tools. Only the
history median and the average over all elapsed time use the current time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias

from otel_progress.records import Trajectory

if TYPE_CHECKING:
    from otel_progress.eta import Parallel

_TQDM_SMOOTHING: Final = 0.3
_TQDM_INTERVAL_S: Final = 0.1
_RICH_WINDOW_S: Final = 30.0
_RICH_SAMPLES: Final = 1000
_NINJA_SURE_AFTER_S: Final = 15.0
_NINJA_SURE_AFTER: Final = 0.05
_NINJA_MOST_APART: Final = 10.0


@dataclass(frozen=True, slots=True)
class Question:
    """Knowledge about a run at one moment.

    It has the points so far, the seconds since the start, earlier runs (oldest first) and children.
    """

    points: Sequence[tuple[float, float]]
    elapsed: float
    history: Sequence[Trajectory]
    parallel: Parallel | None = None


Baseline: TypeAlias = "Callable[[Question], float | None]"


def average(question: Question) -> float | None:
    """Remaining time at the mean rate since the start: tqdm with ``smoothing=0``."""
    if not question.points or question.elapsed <= 0.0:
        return None
    done, base = question.points[-1][1], question.points[0][1]
    return (1.0 - done) * question.elapsed / (done - base) if done > base else None


def tqdm(question: Question) -> float | None:
    """Remaining time at tqdm's moving rate.

    The rate is the moving mean of work divided by that of time, over updates 0.1 s apart. Both
    means
    give the newest update a weight of 0.3. Their correction for few updates cancels out in the
    quotient. tqdm also skips updates that it expects to be early, which hardly changes the value.
    This
    is left out.
    """
    if len(question.points) < 2:
        return None
    work = time = 0.0
    seen_at, seen = question.points[0]
    for at, ratio in question.points[1:]:
        if at - seen_at >= _TQDM_INTERVAL_S and ratio > seen:
            work = _TQDM_SMOOTHING * (ratio - seen) + (1.0 - _TQDM_SMOOTHING) * work
            time = _TQDM_SMOOTHING * (at - seen_at) + (1.0 - _TQDM_SMOOTHING) * time
            seen_at, seen = at, ratio
    return (1.0 - question.points[-1][1]) * time / work if work else average(question)


def rich(question: Question) -> float | None:
    """Remaining time at rich's rate: the advances of 30 seconds except the first.

    rich rounds up to whole seconds, which is large for a short job. This is left out.
    """
    window: deque[tuple[float, float]] = deque(maxlen=_RICH_SAMPLES)
    for (_, before), (at, ratio) in pairwise(question.points):
        while window and window[0][0] < at - _RICH_WINDOW_S:
            window.popleft()
        window.append((at, ratio - before))
    if not window or window[-1][0] == window[0][0]:
        return None
    work = sum(step for _, step in window) - window[0][1]
    return (1.0 - question.points[-1][1]) * (window[-1][0] - window[0][0]) / work if work > 0.0 else None


def history_median(question: Question) -> float | None:
    """Remaining time until half of the past runs had ended."""
    if not question.history:
        return None
    return max(0.0, median(run.duration_s for run in question.history) - question.elapsed)


def ninja(question: Question) -> float | None:
    """Remaining time by ninja's rule: each step takes as long as in the last run.

    ninja takes a share of this and of the time of completed steps, and scales the clock by it. For
    sequential steps both are equal. The last run is ignored if the mean steps differ tenfold after
    15 seconds and 5 % of the steps. Without a last run, further steps take as long as completed
    ones.
    """
    if len(question.points) < 2 or question.points[-1][1] <= question.points[0][1]:
        return None
    spent, done = question.points[-1]
    mean = spent / (done - question.points[0][1])
    left = 0.0
    if question.history:
        last = question.history[-1]
        left = last.duration_s - time_at(last.points, done)
        sure = spent >= _NINJA_SURE_AFTER_S and done >= _NINJA_SURE_AFTER
        if sure and max(mean, last.duration_s) >= _NINJA_MOST_APART * min(mean, last.duration_s):
            left = 0.0
    if left <= 0.0:
        left = mean * (1.0 - done)
    return left


def time_at(points: Sequence[tuple[float, float]], ratio: float) -> float:
    """Return the time at which a run reached ``ratio``, interpolated linearly.

    Outside of the points, it is the time of the last one.
    """
    index = bisect_left(points, ratio, key=lambda point: point[1])
    if index == 0:
        return points[0][0] if points else 0.0
    if index == len(points):
        return points[-1][0]
    (start, before), (end, after) = points[index - 1], points[index]
    return start + (end - start) * (ratio - before) / (after - before)


BASELINES: Final[Mapping[str, Baseline]] = {
    "tqdm": tqdm,
    "average": average,
    "rich": rich,
    "median": history_median,
    "ninja": ninja,
}
"""Other tools by their name in the report."""
