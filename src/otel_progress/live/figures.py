"""Figures of a level: its count, ratio, outcomes and last advance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from otel_progress.live import rollup
from otel_progress.live.node import Children, LevelExtras, Node
from otel_progress.locking import store_together
from otel_progress.model import Number, Status, is_below_total


def needs_update(node: Node) -> bool:
    """Return True when the node changed since its last update.

    Cheap: the ticker calls it for every active node.
    """
    return node.dirty or (node.counter is not None and node.counter.value() != node.last_count)


def update_figures_locked(node: Node, clock: float, now: float) -> None:
    """Update the figures of a node and report the changes to its parent.

    ``clock`` and ``now`` are monotonic and Unix seconds, read before the lock was acquired. Another
    thread may have started or updated the node since. Then the times of that update are used.
    """
    operation = node.operation
    if clock < node.observed_clock:
        clock, now = node.observed_clock, node.observed_at
    else:
        now = operation.date(now, clock)
    status, children = node.status, node.children
    node.dirty = False
    node.snapshot = None
    current: Number = 0
    estimated = False
    # Why a fast path: in a large tree, most levels count nothing and have no levels below them.
    if node.counter is None and children is None and node.extras is None:
        ratio = 0.0 if node.total else None
    else:
        current, ratio = _measure_locked(node, children)
        if status is Status.RUNNING and (children is not None or node.extras is not None):
            ratio, estimated = _estimate_opaque_ratio(node, current, ratio, clock)
    if status is Status.COMPLETED and node.total is not None:
        if node.opaque is not None and node.opaque.is_whole_level and not current:
            current = node.total  # an opaque step cannot count
        ratio = 1.0
        if is_below_total(current, node.total):
            ratio = rollup.compute_count_ratio(current, node.total)
    elif status is Status.COMPLETED or status is Status.SKIPPED:
        ratio = 1.0
    # Why not an estimated ratio: it may fall, and it changes with time alone.
    has_advanced = (
        node.has_advanced
        or node.sequence == 0
        or current != node.current
        or (ratio != node.ratio and not (estimated or node.estimated))
    )
    node.has_advanced = False
    if has_advanced and status is not Status.PENDING:
        last = node.advanced_clock
        if node.sequence and last is not None and clock - last > node.longest_gap:
            node.longest_gap = clock - last
        # Why: the end of a pause moves the last advance, perhaps beyond the time of this update.
        if last is None or clock >= last:
            node.advanced_clock, node.advanced_at = clock, now
    node.current, node.ratio = current, ratio
    if children is not None or node.extras is not None:
        _update_outcomes_locked(node, children, node.extras)
    node.observed_at, node.observed_clock = now, clock
    operation.sequence = node.sequence = operation.sequence + 1
    if node.parent is None:
        node.estimated = estimated
    else:
        _report_to_parent_locked(node, node.parent, estimated, has_advanced)


def find_only_loop(node: Node) -> Node | None:
    """Return the only loop of an operation without a total.

    Return None if the operation started another level, or counted units itself. The operation has
    the ratio of this loop.
    """
    children = node.children
    if node.parent is not None or node.total is not None or children is None or children.created != 1:
        return None
    if node.tracked or (node.counter is not None and node.counter.touched):
        return None
    loop = next(iter(children.nodes.values()), None)
    return loop if loop is not None and loop.tracked else None


def _update_outcomes_locked(node: Node, children: Children | None, extras: LevelExtras | None) -> None:
    # Why the larger one and not the sum: a level may count both its own items and the levels of
    # these items.
    failed, failures, skipped = 0, 0, 0
    if children is not None:
        failed, failures, skipped = children.failed, children.failures, children.skipped
        node.ended_levels = children.count_ended()
    if extras is not None:
        items = 0 if extras.failures is None else int(extras.failures.value())
        skips = 0 if extras.skips is None else int(extras.skips.value())
        if extras.shares:
            items += sum(share.level.failed for share in extras.shares.values())
            skips += sum(share.level.skipped for share in extras.shares.values())
        failed, failures, skipped = max(failed, items), max(failures, items), max(skipped, skips)
    node.failed, node.failed_below, node.skipped = failures, failures - failed, skipped


def _report_to_parent_locked(node: Node, parent: Node, estimated: bool, has_advanced: bool) -> None:
    """Add the node's changes to the figures of its parent."""
    status, siblings = node.status, parent.children
    if estimated is not node.estimated:
        if siblings is None:
            node.estimated = estimated
        else:
            number = siblings.estimated + (1 if estimated else -1)
            store_together((node, siblings), ("estimated", "estimated"), (estimated, number))
    partial = node.ratio if status is Status.RUNNING or status is Status.CANCELLED else None
    if partial != node.reported_ratio and not node.declared and siblings is not None:
        change = node.spec.weight * ((partial or 0.0) - (node.reported_ratio or 0.0))
        store_together(
            (siblings, node),
            ("partial_weight", "reported_ratio"),
            (siblings.partial_weight + change, partial),
        )
    failures = node.failed
    if status is Status.FAILED:
        # Why the larger one: a level often fails because a level below it failed.
        failures = max(failures, count_parent_units(node))
    if failures != node.reported_failures and siblings is not None:
        number = siblings.failures + failures - node.reported_failures
        store_together((siblings, node), ("failures", "reported_failures"), (number, failures))
    # Why only a running parent: the last snapshot of an ended level must stay the last.
    if parent.status is Status.RUNNING:
        parent.dirty = True
        parent.has_advanced = parent.has_advanced or has_advanced


def count_parent_units(node: Node) -> int:
    """Return the units of its parent that a level is, which are its weight."""
    return 1 if node.declared else math.ceil(node.spec.weight)


def _measure_locked(node: Node, children: Children | None) -> tuple[Number, float | None]:
    """Return (current, ratio) from the node's own count, its stages or its children."""
    counter, total = node.counter, node.total
    current: Number = 0 if counter is None else counter.value()
    # Why also without a count: a loop counts its elements and not the loops in its body.
    has_own_count = counter is not None and (current != 0 or counter.touched or node.tracked)
    partial, is_base = 0.0, False
    if has_own_count:
        node.last_count = current
        is_base = (
            children is not None
            and children.stages is None
            and not node.tracked
            and counts_from_base(node, current)
        )
    counted = list_shared_counts(node)
    if counted:
        # Why here: what other processes counted is part of the level's own count.
        current, has_own_count, is_base = current + sum(counted), True, False
    if is_base and children is not None:
        # Why: the level counts its children, and earlier sessions did the base.
        has_own_count = False
        current, partial = current + children.done_weight - children.base_weight, children.partial_weight
    elif not has_own_count and children is not None:
        if children.stages is not None and total is None:
            current = sum(stage.status.finished or is_restored(stage) for stage in children.stages)
        else:
            current, partial = children.done_weight, children.partial_weight
    if total is not None and current > total:
        # Why only an own count: children beyond the total are part of the structure, not a mistake.
        if has_own_count and rollup.exceeds_total(current, total):
            node.ensure_extras().exceeds_total = True
        current = total
    if children is not None and children.stages is not None:
        return current, rollup.compute_stages_ratio(
            (stage.spec.weight, Status.COMPLETED if is_restored(stage) else stage.status, stage.ratio)
            for stage in children.stages
        )
    if total is None:
        loop = find_only_loop(node)
        return current, None if loop is None else loop.ratio
    return current, rollup.compute_count_ratio(current, total, partial)


def list_shared_counts(node: Node) -> Sequence[Number]:
    """Return what other processes counted on a level, for each of them."""
    if node.extras is None or not node.extras.shares:
        return ()
    return [share.level.current for share in node.extras.shares.values() if share.is_counted]


def counts_from_base(node: Node, current: Number) -> bool:
    """Return True if a resumed level has counted nothing itself since.

    ``current`` is its own count.
    """
    resumed = node.operation.resumed_units
    return resumed is not None and resumed.get(node.path) == current


def counts_children(node: Node) -> bool:
    """Return True if the count of a level is that of the levels below it."""
    if node.children is None or node.tracked or list_shared_counts(node):
        return False
    counter = node.counter
    return counter is None or not counter.touched or counts_from_base(node, counter.value())


def is_restored(stage: Node) -> bool:
    """Return True if an earlier session completed a pending stage."""
    work = stage.operation.completed_work
    if work is None or stage.status is not Status.PENDING or stage.parent is None:
        return False
    return work.is_completed(stage.parent.path, stage.path_segment)


def _estimate_opaque_ratio(
    node: Node, current: Number, ratio: float | None, clock: float
) -> tuple[float | None, bool]:
    """Return the ratio with an opaque step, and True if it contains an estimate."""
    children, step = node.children, node.opaque
    estimated = children is not None and children.estimated > 0
    # Why not with stages: the stages define the ratio of their parent.
    if step is None or (children is not None and children.stages is not None):
        return ratio, estimated
    active_s = node.operation.active_seconds(step.since, clock)
    opaque_ratio = step.estimate_ratio(active_s, current, node.total, ratio)
    return (ratio, estimated) if opaque_ratio is None else (opaque_ratio, True)
