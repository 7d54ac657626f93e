"""What an estimate is asked, copied from a level under the lock, and what the estimators answer, without it.

The estimators are pure and live in ``otel_progress.eta``; they are imported when there is something to estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import defer_fork
from otel_progress.live.estimation.levels import active_duration
from otel_progress.live.estimation_state import MIN_ESTIMATE_INTERVAL_S, EstimationState
from otel_progress.live.node import Node
from otel_progress.live.opaque import Opaque
from otel_progress.live.snapshots import STALL_FACTOR
from otel_progress.model import Eta, Status
from otel_progress.records import Trajectory

MIN_OWN_RATE_S: Final = 1.0
"""Seconds of work before a run's own pace says anything: until then it is that of a few milliseconds, and past durations know better."""


MAX_CHILDREN: Final = 1_000
"""Levels directly below one that are looked at, the newest, where several run at once."""


class ParallelChildren(NamedTuple):
    """The fields of ``otel_progress.eta.Parallel``, which is not imported under the lock."""

    ended: Sequence[float]
    running: Sequence[float]
    remaining: int
    workers: int
    known: Sequence[float]


class EstimateRequest(NamedTuple):
    """Everything an estimate needs. ``elapsed`` is in seconds of work on the curve, ``clock`` (monotonic) when that was.

    ``expected`` is of an opaque step that is the whole level and rests on what the caller expects: that, and the seconds it has worked.
    """

    node: Node
    course: EstimationState
    points: Sequence[tuple[float, float]]
    elapsed: float
    clock: float
    history: Sequence[Trajectory]
    expected: tuple[float, float] | None
    children: ParallelChildren | None


def build_request(
    node: Node,
    course: EstimationState,
    history: Sequence[Trajectory],
    known: Sequence[Trajectory],
    clock: float,
) -> EstimateRequest | None:
    """Copy what an estimate of a level needs; None when there is nothing to make one from.

    ``history`` are past runs of the level, ``known`` of those below it that run side by side. With the lock held.
    """
    points, step = tuple(course.points), node.opaque
    elapsed = max(0.0, node.operation.active_seconds(node.started_clock or clock, clock) - course.origin)
    if points:  # another thread may have taken one since ``clock`` was read
        elapsed = max(elapsed, points[-1][0])
    settled = elapsed >= MIN_OWN_RATE_S
    if not settled:
        points, history = _unsettled(points, history)
    if node.estimated and node.ratio is not None and not history:  # better an estimated point than none
        before = points or ((0.0, 0.0),)
        points = (*before, (elapsed, max(node.ratio, before[-1][1])))
    expected = None
    if (
        step is not None
        and step.expected is not None
        and (step.expected == step.given or not history)
        and _is_all(node, step)
    ):
        expected = (step.expected, node.operation.active_seconds(step.since, clock))
    children = _children(node, course, known, clock) if settled else None
    if len(points) < 2 and not history and children is None and expected is None:
        return None
    return EstimateRequest(node, course, points, elapsed, clock, history, expected, children)


def _is_all(node: Node, step: Opaque) -> bool:
    """Tell whether an opaque step is all that its level shows, and not one unit of its total or beside its stages."""
    return step.whole or not (node.total or (node.children is not None and node.children.stages is not None))


def _unsettled(
    points: tuple[tuple[float, float], ...], history: Sequence[Trajectory]
) -> tuple[tuple[tuple[float, float], ...], Sequence[Trajectory]]:
    """Leave of a curve that has hardly begun what foretells anything: past durations, unless an earlier session did part of the work."""
    resumed = bool(points) and points[0][1] > 0.0
    return (points[:1], ()) if resumed else ((), history)


def _children(
    node: Node, course: EstimationState, known: Sequence[Trajectory], clock: float
) -> ParallelChildren | None:
    """Return how the levels below come along where several run at once; None where they do not, or are not what counts."""
    below, workers = node.children, max(course.recent_worker_counts, default=0)
    counted = node.counter is not None and node.counter.touched
    if below is None or workers < 2 or below.stages is not None or counted or not node.total:
        return None
    newest = list(islice(reversed(below.nodes.values()), MAX_CHILDREN))[::-1]
    each = sum(child.spec.weight for child in newest) / len(newest)
    return ParallelChildren(
        [active_duration(child) for child in newest if child.status is Status.COMPLETED],
        [
            node.operation.active_seconds(one.started_clock or clock, clock)
            for one in newest
            if one.status is Status.RUNNING
        ],
        max(0, round((node.total - below.done_weight) / each) - below.running) if each > 0 else 0,
        workers,
        [one.duration_s for one in known],
    )


def run_estimate(question: EstimateRequest) -> Eta | None:
    """Return the estimate a question comes to, on the worker's clock; None when nothing can be said."""
    try:
        with defer_fork():
            from otel_progress.eta import Parallel, estimate, estimate_opaque

        if question.expected is not None:
            expected, worked = question.expected
            eta = estimate_opaque(worked, (), expected=expected)
        else:
            parallel = None if question.children is None else Parallel(*question.children)
            eta = estimate(question.points, question.elapsed, question.history, parallel=parallel)
    except Exception as error:
        report_internal_error("eta", "an estimate failed; there is none until the next one", error=error)
        return None
    return None if eta.state == "unknown" else _extend_to_next_estimate(replace(eta, clock=question.clock))


def _extend_to_next_estimate(eta: Eta) -> Eta:
    """Let an estimate stand until the next one may be made: advances until then are no part of it, and their absence says nothing."""
    down, stalls = eta.counts_down_s, eta.stalls_after_s
    if eta.remaining_s is None or down is None:
        return eta
    return replace(
        eta,
        counts_down_s=max(down, MIN_ESTIMATE_INTERVAL_S),
        stalls_after_s=None if stalls is None else max(stalls, STALL_FACTOR * MIN_ESTIMATE_INTERVAL_S),
    )
