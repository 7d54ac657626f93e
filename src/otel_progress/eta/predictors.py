"""The pace of a run itself: seconds a unit of fraction over the recent half of its work, the later of it counted more."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import sub, truediv
from typing import Final, TypeAlias

from otel_progress.eta.curves import ROUNDING, Curve
from otel_progress.quantiles import median

HALF: Final = 0.5
"""The recent part of the work from which the own pace comes."""


MANY: Final = 8
"""From so many steps on their pace is believed as it is; before, one that was slow (the first of its kind, mostly) would be most of it."""


LEAST: Final = 1e-6
"""Over less of the whole work than this the plain mean is taken: differences of the sums would be rounding errors."""


TINY: Final = 1e-12
"""No advance counts as smaller: nobody counts a billion of billions, and a division must not overflow."""


def beginning(run: Curve, last: int, share: float) -> int:
    """Return the index from which on the latest ``share`` of the work up to ``last`` was done; below ``last`` unless that is 0."""
    fractions = run.fractions
    done = fractions[last] - fractions[0]
    return min(bisect_left(fractions, fractions[last] - share * done), max(0, last - 1))


def recent_rate(run: Curve, last: int) -> float | None:
    """Return the seconds that a whole (fraction 0 to 1) takes at the pace of late at ``last``; None before the first advance.

    With few steps so far, by how much it is slower than the median step counts in part only: a seventh of it with two,
    all of it from eight on. What is warming up, or did one unusual thing, is not yet how the work goes.
    """
    if last < 1:
        return None
    late = _late(run, last)
    if 1 < last < MANY:
        usual = _usual(run, last)
        if late > usual:
            return usual + (late - usual) * (last - 1) / (MANY - 1)
    return late


def _late(run: Curve, last: int) -> float:
    """Return the mean of seconds / fraction over the recent half of the work, weighted by how far into that half the work was done.

    The weight of the fraction f is f - a, from a = half of it on. A slow first step is forgotten, a change of pace followed without a
    jump at every step. The weighted sum of the seconds comes from the running sums of the curve, and the integral of the weights
    is (b - a)^2 / 2.
    """
    first = beginning(run, last, HALF)
    done, took = run.fractions[last] - run.fractions[first], run.times[last] - run.times[first]
    if done < LEAST:
        return took / max(done, TINY)
    weighted = run.moments[last] - run.moments[first] - 2 * (run.fractions[first] - run.fractions[0]) * took
    return max(0.0, weighted) / (done * done)


def _usual(run: Curve, last: int) -> float:
    """Return the pace of the median step, by work: half of the work, or a little more, was done at this pace or a faster one."""
    times, fractions = run.times, run.fractions
    sizes = [fractions[n + 1] - fractions[n] for n in range(last)]
    paces = sorted([((times[n + 1] - times[n]) / max(size, TINY), size) for n, size in enumerate(sizes)])
    half = (HALF - ROUNDING) * (fractions[last] - fractions[0])
    done = list(accumulate(size for _, size in paces))
    return paces[bisect_left(done, half)][0]


PREDICTORS: Final = 4
"""Warp by the whole pace, warp by the recent pace, no warp, own pace; the last is the only one that needs no history."""


OWN: Final = 3
"""The place of the own pace among the experts."""


RECENT: Final = 0.25
"""The pace of late is that of the latest quarter of the work so far: short enough to follow a change soon."""


MARKS: Final = (0.3, 0.6, 0.85)
"""Shares of the time so far at which it is asked again what had been said of the time since: some long looks ahead, some short."""


WORST: Final = 100.0
"""A relative error is never counted as larger: what is so far off is merely wrong."""


INSTANT: Final = 1e-9
"""What took a past run no more seconds than this gives no pace."""


Answers: TypeAlias = "tuple[float | None, float | None, float | None, float | None]"
"""One number an expert, None of one that cannot say."""


NO_ANSWER: Final[Answers] = (None, None, None, None)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What each expert says at ``now`` seconds: ``spans`` are the seconds from there to the end.

    ``errors`` has for the start and each mark, the latest last, the relative errors in foretelling from there the time until now.
    """

    now: float
    spans: Answers
    errors: Sequence[Answers]


class HistoryAlignment:
    """A run laid beside past ones: when each of them was as far as the run was at any of its advances. Worked out once an advance."""

    __slots__ = ("_pasts", "_reached", "durations", "run")

    def __init__(self, run: Curve, history: Sequence[Curve]) -> None:
        """Leave out past runs that began further on (a resumed one says nothing of what comes before)."""
        pasts = [past for past in history if past.fractions[0] <= run.fractions[0]]
        self.run = run
        self.durations = [past.duration for past in pasts]
        self._pasts = [(past.times, past.fractions) for past in pasts]
        self._reached: dict[int, list[float]] = {}

    def times_reached(self, index: int) -> list[float]:
        """Return for each past run when it was as far as the run was at its advance ``index``."""
        found = self._reached.get(index)
        if found is None:
            fraction = self.run.fractions[index]
            found = self._reached[index] = []
            for (
                times,
                fractions,
            ) in self._pasts:  # time_at, written out: of every estimate this takes the most
                after = bisect_left(fractions, fraction)
                if after == 0 or after == len(fractions):
                    found.append(times[after and -1])
                else:
                    earlier, done = times[after - 1], fractions[after - 1]
                    found.append(
                        earlier + (times[after] - earlier) * (fraction - done) / (fractions[after] - done)
                    )
        return found

    def next_gap(self, until: float | None) -> tuple[float, float]:
        """Return in how many seconds the next advance is due, at least to ``until``, and the longest it may take; both at the pace so far.

        It is due when past runs made their first advance to there (None: any further one), not when a straight line would have: where
        all of them were silent for long, so may this one be. With other steps than theirs it may also stand within such a gap of theirs:
        the longest is the whole of it.
        """
        last = len(self.run.times) - 1
        there = self.times_reached(last)
        gaps, whole = [], []
        for (times, fractions), duration, since in zip(self._pasts, self.durations, there, strict=True):
            before = bisect_right(times, since)
            after = before if until is None else bisect_left(fractions, until)
            end = times[after] if after < len(times) else duration
            gaps.append(end - since)
            whole.append(end - times[max(0, before - 1)])
        if not last:
            return median(gaps), median(whole)
        start, took = self.times_reached(0), self.run.times[last] - self.run.times[0]
        return _scaled(gaps, there, start, took), _scaled(whole, there, start, took)


def forecast(beside: HistoryAlignment, last: int) -> Forecast:
    """Ask every expert at the advance ``last`` of the run, and at the marks before it."""
    run = beside.run
    now = run.times[last]
    errors: list[Answers] = []
    if now > 0.0 and beside.durations:
        whole = median(list(map(sub, beside.times_reached(last), beside.times_reached(0))))
        errors.append(
            (None, None, relative_error(whole, now), None)
        )  # at the start there is no pace yet: only "as ever" can be said
    for index in sorted({run.index_at(share * now) for share in MARKS}):
        took = now - run.times[index]
        if 0 < index < last and took > 0.0:
            spans = (
                *_warps(beside, index, beside.times_reached(last)),
                _own(run, index, run.fractions[last]),
            )
            errors.append(tuple([None if span is None else relative_error(span, took) for span in spans]))  # type: ignore[arg-type]
    return Forecast(now, (*_warps(beside, last, beside.durations), _own(run, last, 1.0)), errors)


def _own(run: Curve, index: int, until: float) -> float | None:
    seconds = recent_rate(run, index)
    return None if seconds is None else max(0.0, until - run.fractions[index]) * seconds


def _warps(
    beside: HistoryAlignment, index: int, ends: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Return the medians over past runs of the seconds from the advance ``index`` on until ``ends``, warped in three ways."""
    run = beside.run
    there = beside.times_reached(index)
    if not there:
        return None, None, None
    spans = list(map(sub, ends, there))
    plain = median(spans)
    if index == 0:
        return plain, plain, plain
    recent = beginning(run, index, RECENT)
    whole = _scaled(spans, there, beside.times_reached(0), run.times[index] - run.times[0])
    return (
        whole,
        _scaled(spans, there, beside.times_reached(recent), run.times[index] - run.times[recent]),
        plain,
    )


def _scaled(spans: Sequence[float], there: Sequence[float], before: Sequence[float], took: float) -> float:
    """Return the median of the spans at this run's pace: times what it ``took`` over what each past run took since ``before``."""
    since = list(map(sub, there, before))
    if min(since) > INSTANT:
        return took * median(list(map(truediv, spans, since)))
    return median(
        [span * took / past if past > INSTANT else span for span, past in zip(spans, since, strict=True)]
    )


def relative_error(said: float, took: float) -> float:
    """Return the relative error, (said - took) / took."""
    return min(said - took, WORST * took) / took
