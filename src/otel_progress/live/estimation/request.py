"""Estimate requests: copies of a level's data for estimators without the lock.

The estimators are in ``otel_progress.eta``. They are imported for the first estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import defer_fork
from otel_progress.interrupts import is_interrupt
from otel_progress.live.estimation.levels import compute_active_duration
from otel_progress.live.estimation_state import MIN_ESTIMATE_INTERVAL_S, EstimationState
from otel_progress.live.figures import counts_children
from otel_progress.live.node import Node
from otel_progress.live.opaque import Opaque
from otel_progress.live.snapshots import STALL_FACTOR
from otel_progress.model import Eta, Status
from otel_progress.records import Trajectory

MIN_OWN_RATE_S: Final = 1.0
"""Seconds of work before a run's own rate is used. Until then, the durations of past runs predict
better.
"""


MAX_CHILDREN: Final = 1_000
"""Children of a level with parallel children that are included, the newest. Older ones are ignored.
"""


class ParallelChildren(NamedTuple):
    """Fields of ``otel_progress.eta.Parallel``, which is imported without the lock."""

    ended: Sequence[float]
    running: Sequence[float]
    remaining: int
    workers: int
    known: Sequence[float]


class EstimateRequest(NamedTuple):
    """Data of one estimate.

    ``elapsed`` is in seconds of work on the curve, at ``clock`` in monotonic seconds.

    ``expected`` belongs to an opaque step that is the whole level and has an expected duration. It
    contains that duration and the seconds of work on the step.
    """

    node: Node
    estimation: EstimationState
    points: Sequence[tuple[float, float]]
    elapsed: float
    clock: float
    history: Sequence[Trajectory]
    expected: tuple[float, float] | None
    children: ParallelChildren | None


def build_request_locked(
    node: Node,
    estimation: EstimationState,
    history: Sequence[Trajectory],
    child_history: Sequence[Trajectory],
    clock: float,
) -> EstimateRequest | None:
    """Copy the data for an estimate of a level. Return None when there is not enough.

    ``history`` are past runs of the level, ``child_history`` those of its parallel children.
    ``clock`` is in monotonic seconds. The last update is used if it is later.
    """
    # Why: another thread may have updated the level after ``clock`` was read.
    clock = max(clock, node.observed_clock)
    points, step = tuple(estimation.points), node.opaque
    elapsed = max(0.0, node.operation.active_seconds(node.started_clock or clock, clock) - estimation.origin)
    if points:
        # Why: two ended pauses may have become one, which changes the active time before them.
        elapsed = max(elapsed, points[-1][0])
    is_settled = elapsed >= MIN_OWN_RATE_S
    if not is_settled:
        points, history = _drop_unsettled_data(points, history)
    if node.estimated and node.ratio is not None and not history:
        # Why: an estimated point is better than none.
        before = points or ((0.0, 0.0),)
        points = (*before, (elapsed, max(node.ratio, before[-1][1])))
    expected = None
    if step is not None and step.expected is not None:
        is_decisive = step.expected == step.given or not history
        if is_decisive and _is_all_work(node, step):
            expected = (step.expected, node.operation.active_seconds(step.since, clock))
    children = _copy_parallel_children(node, estimation, child_history, clock) if is_settled else None
    if len(points) < 2 and not history and children is None and expected is None:
        return None
    return EstimateRequest(node, estimation, points, elapsed, clock, history, expected, children)


def _is_all_work(node: Node, step: Opaque) -> bool:
    """Return True when an opaque step is all the work of its level."""
    has_stages = node.children is not None and node.children.stages is not None
    return step.is_whole_level or not (node.total or has_stages)


def _drop_unsettled_data(
    points: tuple[tuple[float, float], ...], history: Sequence[Trajectory]
) -> tuple[tuple[tuple[float, float], ...], Sequence[Trajectory]]:
    """Return only past runs, or only the first point of resumed work."""
    is_resumed = bool(points) and points[0][1] > 0.0
    return (points[:1], ()) if is_resumed else ((), history)


def _copy_parallel_children(
    node: Node, estimation: EstimationState, child_history: Sequence[Trajectory], clock: float
) -> ParallelChildren | None:
    """Return the durations of children that run in parallel.

    Return None when they do not, or do not define the ratio.
    """
    children, workers = node.children, max(estimation.recent_worker_counts, default=0)
    if children is None or workers < 2 or children.stages is not None or not node.total:
        return None
    if not counts_children(node):
        return None
    done = children.done_weight if node.operation.resumed_units is None else node.current
    newest = list(islice(reversed(children.nodes.values()), MAX_CHILDREN))[::-1]
    mean_weight = sum(child.spec.weight for child in newest) / len(newest)
    remaining = 0
    if mean_weight > 0:
        remaining = max(0, round((node.total - done) / mean_weight) - children.running)
    return ParallelChildren(
        [compute_active_duration(child) for child in newest if child.status is Status.COMPLETED],
        [
            node.operation.active_seconds(child.started_clock or clock, clock)
            for child in newest
            if child.status is Status.RUNNING
        ],
        remaining,
        workers,
        [trajectory.duration_s for trajectory in child_history],
    )


def run_estimate(request: EstimateRequest) -> Eta | None:
    """Return the estimate for a request, on this process's clock.

    Return None when nothing can be predicted.
    """
    try:
        with defer_fork():
            from otel_progress.eta import Parallel, estimate, estimate_opaque

        if request.expected is not None:
            expected, active_s = request.expected
            eta = estimate_opaque(active_s, (), expected=expected)
        else:
            parallel = None if request.children is None else Parallel(*request.children)
            eta = estimate(request.points, request.elapsed, request.history, parallel=parallel)
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("eta", "An estimate failed; the level has none until the next one", error=error)
        return None
    return None if eta.state == "unknown" else _extend_to_next_estimate(replace(eta, clock=request.clock))


def _extend_to_next_estimate(eta: Eta) -> Eta:
    """Extend an estimate until the next one may be made."""
    counts_down_s, stalls_after_s = eta.counts_down_s, eta.stalls_after_s
    if eta.remaining_s is None or counts_down_s is None:
        return eta
    if stalls_after_s is not None:
        stalls_after_s = max(stalls_after_s, STALL_FACTOR * MIN_ESTIMATE_INTERVAL_S)
    return replace(
        eta, counts_down_s=max(counts_down_s, MIN_ESTIMATE_INTERVAL_S), stalls_after_s=stalls_after_s
    )
