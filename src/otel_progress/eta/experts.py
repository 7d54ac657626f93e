"""The ways to tell what is left of a run, and how well each would have told what has happened since earlier moments of it.

Three rest on past runs: their time curves scaled to this run's pace ("time warp"), once by its pace since the start and once by that of
its latest quarter, and once not scaled at all. The fourth is the run's own pace alone. Of what the past runs say one by one, the median
counts: a run that was disturbed does not matter.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub, truediv
from typing import Final, TypeAlias

from otel_progress.eta.curves import Curve
from otel_progress.eta.rate import beginning, pace

EXPERTS: Final = 4
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


class Alignment:
    """A run laid beside past ones: when each of them was as far as the run was at any of its advances. Worked out once an advance."""

    __slots__ = ("_pasts", "_reached", "durations", "run")

    def __init__(self, run: Curve, history: Sequence[Curve]) -> None:
        """Leave out past runs that began further on (a resumed one says nothing of what comes before)."""
        pasts = [past for past in history if past.fractions[0] <= run.fractions[0]]
        self.run = run
        self.durations = [past.duration for past in pasts]
        self._pasts = [(past.times, past.fractions) for past in pasts]
        self._reached: dict[int, list[float]] = {}

    def reached(self, index: int) -> list[float]:
        """Return for each past run when it was as far as the run was at its advance ``index``."""
        found = self._reached.get(index)
        if found is None:
            fraction = self.run.fractions[index]
            found = self._reached[index] = []
            for times, fractions in self._pasts:  # time_at, written out: of every estimate this takes the most
                after = bisect_left(fractions, fraction)
                if after == 0 or after == len(fractions):
                    found.append(times[after and -1])
                else:
                    earlier, done = times[after - 1], fractions[after - 1]
                    found.append(earlier + (times[after] - earlier) * (fraction - done) / (fractions[after] - done))
        return found

    def next_gap(self, until: float | None) -> tuple[float, float]:
        """Return in how many seconds the next advance is due, at least to ``until``, and the longest it may take; both at the pace so far.

        It is due when past runs made their first advance to there (None: any further one), not when a straight line would have: where
        all of them were silent for long, so may this one be. With other steps than theirs it may also stand within such a gap of theirs:
        the longest is the whole of it.
        """
        last = len(self.run.times) - 1
        there = self.reached(last)
        gaps, whole = [], []
        for (times, fractions), duration, since in zip(self._pasts, self.durations, there, strict=True):
            before = bisect_right(times, since)
            after = before if until is None else bisect_left(fractions, until)
            end = times[after] if after < len(times) else duration
            gaps.append(end - since)
            whole.append(end - times[max(0, before - 1)])
        if not last:
            return median(gaps), median(whole)
        start, took = self.reached(0), self.run.times[last] - self.run.times[0]
        return _scaled(gaps, there, start, took), _scaled(whole, there, start, took)


def forecast(beside: Alignment, last: int) -> Forecast:
    """Ask every expert at the advance ``last`` of the run, and at the marks before it."""
    run = beside.run
    now = run.times[last]
    errors: list[Answers] = []
    if now > 0.0 and beside.durations:
        whole = median(list(map(sub, beside.reached(last), beside.reached(0))))
        errors.append((None, None, relative(whole, now), None))  # at the start there is no pace yet: only "as ever" can be said
    for index in sorted({run.index_at(share * now) for share in MARKS}):
        took = now - run.times[index]
        if 0 < index < last and took > 0.0:
            spans = (*_warps(beside, index, beside.reached(last)), _own(run, index, run.fractions[last]))
            errors.append(tuple([None if span is None else relative(span, took) for span in spans]))  # type: ignore[arg-type]
    return Forecast(now, (*_warps(beside, last, beside.durations), _own(run, last, 1.0)), errors)


def _own(run: Curve, index: int, until: float) -> float | None:
    seconds = pace(run, index)
    return None if seconds is None else max(0.0, until - run.fractions[index]) * seconds


def _warps(beside: Alignment, index: int, ends: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Return the medians over past runs of the seconds from the advance ``index`` on until ``ends``, warped in three ways."""
    run = beside.run
    there = beside.reached(index)
    if not there:
        return None, None, None
    spans = list(map(sub, ends, there))
    plain = median(spans)
    if index == 0:
        return plain, plain, plain
    recent = beginning(run, index, RECENT)
    whole = _scaled(spans, there, beside.reached(0), run.times[index] - run.times[0])
    return whole, _scaled(spans, there, beside.reached(recent), run.times[index] - run.times[recent]), plain


def _scaled(spans: Sequence[float], there: Sequence[float], before: Sequence[float], took: float) -> float:
    """Return the median of the spans at this run's pace: times what it ``took`` over what each past run took since ``before``."""
    since = list(map(sub, there, before))
    if min(since) > INSTANT:
        return took * median(list(map(truediv, spans, since)))
    return median([span * took / past if past > INSTANT else span for span, past in zip(spans, since, strict=True)])


def relative(said: float, took: float) -> float:
    """Return the relative error, (said - took) / took."""
    return min(said - took, WORST * took) / took


def median(values: Sequence[float]) -> float:
    """Return the median; several times as fast as that of ``statistics``, of which every estimate needs a dozen."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
