"""Work that cannot report: how far it probably is, from how long it is expected to take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from otel_progress.live.quantile import quantile
from otel_progress.model import Number

ENOUGH_RUNS: Final = 3
"""Past runs that can overrule what the caller expects."""
AGREEMENT: Final = 0.25
"""Past runs agree when the middle half of their durations spans no more than this part of the median."""


class Opaque:
    """The mark of an opaque step on a level while it is in force: since when (monotonic), and what is expected of it, in seconds.

    ``given`` is what the caller expects, ``base`` what the level had counted when the step began, ``depth`` how many contexts are open.
    ``whole`` says that the level is nothing but the step, because the step began it.
    """

    __slots__ = ("base", "depth", "expected", "given", "looked", "since", "whole")

    def __init__(self, since: float, given: float | None, base: Number, *, whole: bool) -> None:
        self.since = since
        self.given = given
        self.base = base
        self.whole = whole
        self.expected = given
        self.depth = 1
        self.looked = since

    def ratio(self, worked: float, current: Number, total: Number | None, ratio: float | None) -> float | None:
        """Return the estimated ratio of the level after ``worked`` seconds of the step; None when nothing is expected of it.

        Where the level has a total, the step stands for its next unit, and what is truly done (``current``, ``ratio``) is never
        hidden; otherwise the step is all there is to the level.
        """
        if self.expected is None:
            return None
        from otel_progress.eta import opaque_ratio  # loaded by now, see LiveStore.begin_opaque

        done = opaque_ratio(worked, self.expected)
        if not total:
            return done
        return max(ratio or 0.0, (self.base + done) / total) if current < total else ratio


def expectation(step: Opaque, durations: Sequence[float], worked: float, total: Number | None) -> float | None:
    """Return how long a step is expected to take, in seconds; None when nothing is known.

    ``durations`` are those of past runs of the level. They say what a step takes that is the whole level (their median), that is one
    unit of ``total`` (its part), or that is the rest of a level which had ``worked`` seconds behind it. What the caller expects comes
    first, unless the step is the whole level and at least three past runs agree among themselves: then they know better.
    """
    known = [duration for duration in durations if duration > 0.0]
    if step.given is not None and not (step.whole and _agree(known)):
        return step.given
    if not known:
        return None
    middle = quantile(known, 0.5)
    if step.whole or total:
        return middle / total if total and not step.whole else middle
    rest = [duration - worked for duration in known if duration > worked]
    return quantile(rest, 0.5) if rest else None


def _agree(durations: Sequence[float]) -> bool:
    if len(durations) < ENOUGH_RUNS:
        return False
    return quantile(durations, 0.75) - quantile(durations, 0.25) <= AGREEMENT * quantile(durations, 0.5)
