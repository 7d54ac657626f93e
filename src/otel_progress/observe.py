"""From a node's mutable state to an immutable snapshot: the one place where counts, roll-up and clocks come together.

Called by the live store with its lock held, children before their parents.
"""

from __future__ import annotations

from typing import Final

from otel_progress import rollup
from otel_progress.eta.rate import remaining_seconds
from otel_progress.model import Eta, LevelInfo, Number, Snapshot, Status
from otel_progress.node import Node

MAX_POINTS: Final = 64
"""Points kept of an operation's (elapsed, ratio) curve; when full, every other one goes."""
_ETA_EVERY: Final = 1.0


def changed(node: Node) -> bool:
    """True when the node has something to tell that its last snapshot does not. Cheap: asked of every active node each tick."""
    return node.dirty or node.counter.value() != node.seen


def observe(node: Node, clock: float, now: float, instance: str) -> Snapshot:
    """Make, keep and return the node's next snapshot, and tell the parent what it changes there."""
    last = node.snapshot
    node.dirty = False
    done = node.seen = node.counter.value()
    current, total, ratio = _figures(node, done)
    if node.status.finished:
        ratio = rollup.final(node.status, ratio)
    failed, skipped = node.failed(), node.skipped()
    advanced = node.moved or last is None or current != last.current or ratio != last.ratio
    node.moved = False
    if advanced and node.status is not Status.PENDING:
        _advance(node, clock, now, first=last is None)
    node.operation.sequence += 1
    snapshot = node.snapshot = Snapshot(
        node.info or _describe(node, instance),
        node.operation.sequence,
        node.status,
        current,
        total,
        ratio,
        failed,
        skipped,
        node.message,
        node.metadata,
        node.error,
        None if node.stage is None else node.stage.id,
        _eta(node, ratio, clock),
        now,
        clock,
        node.advanced_at,
        node.advanced_clock,
        node.longest_gap,
        node.ended_at,
        node.duration,
    )
    _tell_parent(node, last, snapshot, advanced)
    return snapshot


def _figures(node: Node, done: Number) -> tuple[Number, Number | None, float | None]:
    """Return (current, total, ratio) from the node's own counting, its stages, or its children."""
    total = node.total
    if node.stages is not None and not node.counter.touched:
        ended = sum(stage.status.finished for stage in node.stages)
        return ended, len(node.stages), rollup.staged((s.spec.weight, s.status, _ratio(s)) for s in node.stages)
    if node.counter.touched:
        current: Number = done
        partial = 0.0
    else:
        current, partial = node.child_done, node.child_partial
    if total is not None and current > total:  # children beyond the total are structure, not a mistake
        node.clamped, current = node.counter.touched, total
    ratio = rollup.counted(current, total, partial)
    if node.stages is not None:
        ratio = rollup.staged((s.spec.weight, s.status, _ratio(s)) for s in node.stages)
    return current, total, ratio


def _ratio(node: Node) -> float | None:
    return None if node.snapshot is None else node.snapshot.ratio


def _advance(node: Node, clock: float, now: float, *, first: bool) -> None:
    if not first and node.advanced_clock is not None:
        node.longest_gap = max(node.longest_gap, clock - node.advanced_clock)
    node.advanced_clock, node.advanced_at = clock, now


def _tell_parent(node: Node, last: Snapshot | None, snapshot: Snapshot, advanced: bool) -> None:
    parent = node.parent
    if parent is None:
        return
    if not node.declared:
        parent.child_partial += node.spec.weight * (_running_ratio(snapshot) - _running_ratio(last))
    if parent.status is Status.RUNNING:  # the last snapshot of an ended level stays the last
        parent.dirty = True
        parent.moved = parent.moved or advanced


def _running_ratio(snapshot: Snapshot | None) -> float:
    return (snapshot.ratio or 0.0) if snapshot is not None and snapshot.status is Status.RUNNING else 0.0


def _eta(node: Node, ratio: float | None, clock: float) -> Eta | None:
    """Return an operation's estimate from its recent rate, made anew at most once a second; None for other levels."""
    if node.parent is not None or node.status is not Status.RUNNING or node.started_clock is None:
        return None
    elapsed = clock - node.started_clock
    if ratio is not None:
        _keep_point(node, elapsed, ratio)
    last = None if node.snapshot is None else node.snapshot.eta
    if last is not None and clock - last.clock < _ETA_EVERY:
        return last
    remaining = remaining_seconds(node.operation.points, elapsed)
    return None if remaining is None else Eta(remaining, None, None, "estimated", "rate", 0, clock)


def _keep_point(node: Node, elapsed: float, ratio: float) -> None:
    points = node.operation.points
    if points and (points[-1][1] == ratio or elapsed - points[-1][0] < node.operation.spacing):
        return
    points.append((elapsed, ratio))
    if len(points) >= MAX_POINTS:
        del points[1::2]
        node.operation.spacing = elapsed / MAX_POINTS


def _describe(node: Node, instance: str) -> LevelInfo:
    """Make and keep the part that stays the same from start to end."""
    operation, spec = node.operation, node.spec
    node.info = LevelInfo(
        operation.id,
        operation.type,
        operation.run,
        node.path,
        spec.type,
        node.id,
        node.name,
        spec.unit,
        spec.weight,
        node.declared,
        node.attempt,
        node.order,
        node.started_at,
        node.started_clock,
        spec.deadline_at,
        None if node.trace is None else f"{node.trace[0]:032x}",
        None if node.trace is None else f"{node.trace[1]:016x}",
        instance,
    )
    return node.info
