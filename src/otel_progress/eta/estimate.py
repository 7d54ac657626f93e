"""The remaining time of a run from its progress so far and from past runs: one pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from otel_progress.errors import RejectedValueError
from otel_progress.eta.cache import PreparedHistory, prepare_history
from otel_progress.eta.curves import LONGEST, Curve, Points, checked, curve, is_seconds
from otel_progress.eta.durations import from_durations
from otel_progress.eta.ensemble import Blend, blend_forecast
from otel_progress.eta.gaps import STALLED, without_pauses
from otel_progress.eta.parallel import Parallel, Simulation, simulate
from otel_progress.eta.predictors import OWN, HistoryAlignment, forecast, recent_rate
from otel_progress.model import Eta, EtaBasis
from otel_progress.quantiles import median
from otel_progress.records import Trajectory

RECENT: Final = 8
"""The usual step is the median of so many last ones."""


TOLERATED: Final = 1e-6
"""Seconds by which ``elapsed`` may lie before the last point, for rounding's sake."""


def estimate(
    points: Points,
    elapsed: float,
    history: Sequence[Trajectory],
    *,
    confidence: float = 0.8,
    parallel: Parallel | None = None,
) -> Eta:
    """Return what is left of a run ``elapsed`` seconds after its start; pure, and ``clock`` of the result is ``elapsed``.

    Args:
        points: (elapsed seconds, fraction done 0 to 1) of this run, ascending in time. The first is the base: (0, 0) is presumed when it
            is later than 0 s; a run resumed half way begins with (0.0, 0.5), and its pace is that from there on. A fraction that falls says
            that the total grew: earlier ones are rescaled to the new total. Of more than 144, a part counts. Without any (the
            total is unknown), and before the first advance without past curves, past durations alone tell.
        elapsed: Now, in seconds since the start, pauses that were announced left out. Not before the last point.
        history: Earlier runs of the same kind, oldest first; the last 20 count. What they teach is kept by the identity of the
            trajectories, so hand over the same objects again.
        confidence: Share of intervals that are meant to hold the true end; 0 to 1, both excluded. Nearer than
            1e-6 to either it counts as that.
        parallel: The children, where they run side by side.

    Between advances it counts down until the next is due, holds then, and is stalled (``low_s`` says "at least", nothing else is known)
    after three times the longest gap known of this run or a past one. A gap of this run that is five times as long as any usual one,
    and that past runs did not make there, counts as a pause and not as pace.

    Raises:
        RejectedValueError: Something is not a number, out of its range (seconds are at most 1e15), or out of order; the text says what
            and where.

    """
    _check(elapsed, confidence)
    times, fractions = checked(points)
    if times and times[-1] > elapsed + TOLERATED:
        msg = f"elapsed: expected a time from the last point's on ({times[-1]} s), got {elapsed}"
        raise RejectedValueError(msg)
    learned = prepare_history(history)
    run = curve(times[-1], times, fractions) if times else curve(0.0, (0.0,), (0.0,))
    if parallel is not None:
        children = simulate(parallel)
        if children is not None:
            return _beside(run, learned, confidence, elapsed, children)
    if not times or (len(times) < 2 and not learned.curves):
        return from_durations(learned.durations, elapsed, confidence)
    return _aged(run, learned, confidence).at(elapsed)


def _check(elapsed: float, confidence: float) -> None:
    if not is_seconds(elapsed):
        msg = f"elapsed: expected a number of seconds from 0 to {LONGEST:g}, got {elapsed}"
        raise RejectedValueError(msg)
    if not 0.0 < confidence < 1.0:
        msg = f"confidence: expected a share between 0 and 1, such as 0.8, got {confidence}"
        raise RejectedValueError(msg)


def _aged(run: Curve, learned: PreparedHistory, confidence: float) -> Eta:
    """Return the estimate as it stood at the last advance: from there on it ages like any other."""
    usual = without_pauses(run, learned.curves)
    beside = HistoryAlignment(usual, learned.curves)
    blend = blend_forecast(forecast(beside, len(usual.times) - 1), learned.record.errors)
    at = run.times[-1]
    if blend is None:
        return Eta(None, None, None, "unknown", "none", 0, at)
    basis: EtaBasis = "rate" if blend.own > 0.5 else "history"
    low, high = _bounds(blend, learned, confidence)
    due, longest = _next_gap(beside)
    stalls = STALLED * max(longest, usual.gap, max((past.gap for past in learned.curves), default=0.0))
    return Eta(
        blend.span,
        low,
        high,
        "estimated",
        basis,
        len(learned.curves),
        at,
        min(blend.span, due),
        stalls or None,
    )


def _bounds(blend: Blend, learned: PreparedHistory, confidence: float) -> tuple[float | None, float | None]:
    wide = learned.half_width(blend, confidence)
    return (None, None) if wide is None else (max(0.0, blend.span - wide), blend.span + wide)


def _next_gap(beside: HistoryAlignment) -> tuple[float, float]:
    """Return after how many seconds the next advance is due, and how many it may take: as in past runs from here on, or at this pace."""
    run = beside.run
    steps = [later - earlier for earlier, later in pairwise(run.fractions[-RECENT - 1 :])]
    if beside.durations:
        return beside.next_gap(run.fractions[-1] + median(steps) if steps else None)
    due = median(steps) * (recent_rate(run, len(run.times) - 1) or 0.0) if steps else 0.0
    return due, due


def _beside(
    run: Curve, learned: PreparedHistory, confidence: float, elapsed: float, children: Simulation
) -> Eta:
    """Return the estimate of work done by children side by side: their simulation takes the place of the own pace."""
    at = run.times[-1]
    usual = without_pauses(run, learned.curves)
    told = forecast(HistoryAlignment(usual, learned.curves), len(usual.times) - 1)
    spans = (*told.spans[:OWN], children.remaining_s + elapsed - at)
    blend = blend_forecast(replace(told, spans=spans), learned.record.errors)
    assert blend is not None  # the simulation has answered
    basis: EtaBasis = "parallel" if blend.own > 0.5 else "history"
    low, high = _bounds(blend, learned, confidence)
    stalls = STALLED * max(children.longest_s, usual.gap)
    eta = Eta(blend.span, low, high, "estimated", basis, len(learned.curves), at, None, stalls or None)
    now = eta.at(elapsed)
    return (
        now
        if now.remaining_s is None
        else replace(now, counts_down_s=min(children.longest_s, now.remaining_s))
    )
