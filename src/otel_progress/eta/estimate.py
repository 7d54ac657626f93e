"""Estimate of a run's remaining time from its progress and from past runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from otel_progress.errors import RejectedValueError
from otel_progress.eta.cache import PreparedHistory, prepare_history
from otel_progress.eta.curves import MAX_SECONDS, Curve, Points, build_curve, is_seconds, parse_points
from otel_progress.eta.durations import estimate_from_durations
from otel_progress.eta.ensemble import Blend, blend_forecast
from otel_progress.eta.gaps import STALL_FACTOR, remove_pauses
from otel_progress.eta.parallel import Parallel, Simulation, simulate
from otel_progress.eta.predictors import OWN_RATE, HistoryAlignment, build_forecast, compute_recent_rate
from otel_progress.model import Eta, EtaBasis
from otel_progress.quantiles import median
from otel_progress.records import Trajectory

RECENT_STEPS: Final = 8
"""Number of latest steps whose median is the usual step."""


ELAPSED_TOLERANCE_S: Final = 1e-6
"""Seconds by which ``elapsed`` may be less than the last point, for rounding errors."""


def estimate(
    points: Points,
    elapsed: float,
    history: Sequence[Trajectory],
    *,
    confidence: float = 0.8,
    parallel: Parallel | None = None,
) -> Eta:
    """Estimate the remaining time of a run, ``elapsed`` seconds after its start.

    Args:
        points: (elapsed seconds, fraction done 0 to 1) of this run, ascending in time. The first
            is the base. If it is later than 0 s, the base is (0, 0). A run resumed half way starts
            with (0.0, 0.5). After a decrease, earlier fractions are rescaled. Of more than 144
            points, some are skipped. Without an advance and past curves, only past durations are
            used.
        elapsed: Seconds since the start, without announced pauses. Not before the last point.
        history: Earlier runs of the same kind, oldest first. The last 20 are used. Their backtest
            is cached by identity, so pass the same objects again.
        confidence: Share of intervals that should contain the true end, between 0 and 1.
        parallel: The children, if they run in parallel.

    Between advances, the estimate counts down until the next one is due. Then it holds. It is
    stalled after three times the longest known gap. Then only ``low_s`` is known. A gap five times
    as long as the usual ones counts as a pause, unless past runs have it too.

    Raises:
        RejectedValueError: A value is not a number, out of range or out of order.

    """
    _check_arguments(elapsed, confidence)
    times, fractions = parse_points(points)
    if times and times[-1] > elapsed + ELAPSED_TOLERANCE_S:
        msg = f"Invalid elapsed {elapsed}: expected at least the time of the last point ({times[-1]} s)."
        raise RejectedValueError(msg)
    prepared = prepare_history(history)
    run = build_curve(times[-1], times, fractions) if times else build_curve(0.0, (0.0,), (0.0,))
    children = None if parallel is None else simulate(parallel)
    if children is not None:
        return _estimate_parallel(run, prepared, confidence, elapsed, children)
    if not times or (len(times) < 2 and not prepared.curves):
        return estimate_from_durations(prepared.durations, elapsed, confidence)
    return _estimate_at_last_advance(run, prepared, confidence).at(elapsed)


def _check_arguments(elapsed: float, confidence: float) -> None:
    if not is_seconds(elapsed):
        msg = f"Invalid elapsed {elapsed}: expected seconds from 0 to {MAX_SECONDS:g}."
        raise RejectedValueError(msg)
    if not 0.0 < confidence < 1.0:
        msg = f"Invalid confidence {confidence}: expected a share between 0 and 1, such as 0.8."
        raise RejectedValueError(msg)


def _estimate_at_last_advance(run: Curve, prepared: PreparedHistory, confidence: float) -> Eta:
    """Return the estimate at the time of the last advance."""
    unpaused = remove_pauses(run, prepared.curves)
    alignment = HistoryAlignment(unpaused, prepared.curves)
    blend = blend_forecast(build_forecast(alignment, len(unpaused.times) - 1), prepared.backtest.errors)
    at = run.times[-1]
    if blend is None:
        return Eta(None, None, None, "unknown", "none", 0, at)
    basis: EtaBasis = "rate" if blend.own > 0.5 else "history"
    low, high = _compute_bounds(blend, prepared, confidence)
    due, longest = _predict_next_gap(alignment)
    past_gap = max((past.gap for past in prepared.curves), default=0.0)
    stalls_after_s = STALL_FACTOR * max(longest, unpaused.gap, past_gap)
    return Eta(
        blend.span,
        low,
        high,
        "estimated",
        basis,
        len(prepared.curves),
        at,
        min(blend.span, due),
        stalls_after_s or None,
    )


def _compute_bounds(
    blend: Blend, prepared: PreparedHistory, confidence: float
) -> tuple[float | None, float | None]:
    half_width = prepared.half_width(blend, confidence)
    return (
        (None, None) if half_width is None else (max(0.0, blend.span - half_width), blend.span + half_width)
    )


def _predict_next_gap(alignment: HistoryAlignment) -> tuple[float, float]:
    """Return the seconds until the next advance: expected and longest.

    They are those of past runs from here on, or follow from this run's rate.
    """
    run = alignment.run
    steps = [later - earlier for earlier, later in pairwise(run.fractions[-RECENT_STEPS - 1 :])]
    if alignment.durations:
        return alignment.predict_next_gap(run.fractions[-1] + median(steps) if steps else None)
    due = median(steps) * (compute_recent_rate(run, len(run.times) - 1) or 0.0) if steps else 0.0
    return due, due


def _estimate_parallel(
    run: Curve, prepared: PreparedHistory, confidence: float, elapsed: float, children: Simulation
) -> Eta:
    """Return the estimate of parallel children.

    Their simulation replaces the own rate.
    """
    at = run.times[-1]
    unpaused = remove_pauses(run, prepared.curves)
    forecast = build_forecast(HistoryAlignment(unpaused, prepared.curves), len(unpaused.times) - 1)
    spans = (*forecast.spans[:OWN_RATE], max(0.0, children.remaining_s + elapsed - at))
    blend = blend_forecast(replace(forecast, spans=spans), prepared.backtest.errors)
    assert blend is not None  # the simulation has made a prediction
    basis: EtaBasis = "parallel" if blend.own > 0.5 else "history"
    low, high = _compute_bounds(blend, prepared, confidence)
    stalls = STALL_FACTOR * max(children.longest_s, unpaused.gap)
    eta = Eta(blend.span, low, high, "estimated", basis, len(prepared.curves), at, None, stalls or None)
    now = eta.at(elapsed)
    if now.remaining_s is None:
        return now
    return replace(now, counts_down_s=min(children.longest_s, now.remaining_s))
