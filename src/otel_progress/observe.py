"""From a node's mutable state to an immutable snapshot: the one place where counts, roll-up and clocks come together.

Called by the live store with its lock held, children before their parents.
"""

from __future__ import annotations

from typing import Final

from otel_progress import rollup
from otel_progress.eta.rate import remaining_seconds
from otel_progress.fast import maker
from otel_progress.model import Eta, LevelInfo, Number, Snapshot, Status
from otel_progress.node import Node

MAX_POINTS: Final = 64
"""Points kept of an operation's (elapsed, ratio) curve; when full, every other one goes."""
_ETA_EVERY: Final = 1.0
_snapshot: Final = maker(Snapshot)
_level_info: Final = maker(LevelInfo)


def changed(node: Node) -> bool:
    """True when the node has something to tell that its last snapshot does not. Cheap: asked of every active node each tick."""
    return node.dirty or node.counter.value() != node.seen


def observe(node: Node, clock: float, now: float, instance: str) -> Snapshot:
    """Make, keep and return the node's next snapshot, and tell the parent what it changes there."""
    last, status = node.snapshot, node.status
    node.dirty = False
    done = node.seen = node.counter.value()
    current, total, ratio = _figures(node, done)
    if status is Status.COMPLETED or status is Status.SKIPPED:
        ratio = 1.0
    advanced = node.moved or last is None or current != last.current or ratio != last.ratio
    node.moved = False
    if advanced and status is not Status.PENDING:
        if last is not None and node.advanced_clock is not None and clock - node.advanced_clock > node.longest_gap:
            node.longest_gap = clock - node.advanced_clock
        node.advanced_clock, node.advanced_at = clock, now
    operation = node.operation
    operation.sequence += 1
    snapshot = node.snapshot = _snapshot(
        node.info or _describe(node, instance),
        operation.sequence,
        status,
        current,
        total,
        ratio,
        node.failed(),
        node.skipped(),
        node.message,
        node.metadata,
        node.error,
        None if node.stage is None else node.stage.id,
        None if node.parent is not None else _eta(node, ratio, clock),
        now,
        clock,
        node.advanced_at,
        node.advanced_clock,
        node.longest_gap,
        node.ended_at,
        node.duration,
    )
    if node.parent is not None:
        _tell_parent(node, node.parent, ratio if status is Status.RUNNING else None, advanced)
    return snapshot


def _figures(node: Node, done: Number) -> tuple[Number, Number | None, float | None]:
    """Return (current, total, ratio) from the node's own counting, its stages, or its children."""
    total, touched = node.total, node.counter.touched
    current: Number = done if touched else node.child_done
    if node.stages is not None:
        return _staged(node, node.stages, current, total, touched)
    if total is None:
        return current, None, None
    if current > total:  # children beyond the total are structure, not a mistake
        node.clamped, current = touched, total
    return current, total, rollup.counted(current, total, 0.0 if touched else node.child_partial)


def _staged(
    node: Node, stages: list[Node], current: Number, total: Number | None, touched: bool
) -> tuple[Number, Number | None, float | None]:
    """Return the figures of a level with stages: its ratio is theirs, and without a count of its own they are its units."""
    ratio = rollup.staged((stage.spec.weight, stage.status, _ratio(stage)) for stage in stages)
    if total is None and not touched:
        return sum(stage.status.finished for stage in stages), len(stages), ratio
    if total is not None and current > total:
        node.clamped, current = touched, total
    return current, total, ratio


def _ratio(node: Node) -> float | None:
    return None if node.snapshot is None else node.snapshot.ratio


def _tell_parent(node: Node, parent: Node, running_ratio: float | None, advanced: bool) -> None:
    if not node.declared and running_ratio != node.told:
        parent.child_partial += node.spec.weight * ((running_ratio or 0.0) - (node.told or 0.0))
        node.told = running_ratio
    if parent.status is Status.RUNNING:  # the last snapshot of an ended level stays the last
        parent.dirty = True
        parent.moved = parent.moved or advanced


def _eta(node: Node, ratio: float | None, clock: float) -> Eta | None:
    """Return an operation's estimate from its recent rate, made anew at most once a second."""
    if node.status is not Status.RUNNING or node.started_clock is None:
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
    node.info = _level_info(
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
