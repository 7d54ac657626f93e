"""Tree of the levels of this process.

Methods whose name ends in ``_locked`` require the lock of the live store.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final

from otel_progress import semconv
from otel_progress.live.figures import count_parent_units, needs_update, update_figures_locked
from otel_progress.live.node import CallSite, Children, EndedLevels, LevelExtras, Node, Operation, Spec
from otel_progress.model import NO_METADATA, Number, Status
from otel_progress.semconv import RejectionReason
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.stages import Stages
from otel_progress.text import encode_segment, join_title

REASON_PARENT_ENDED: Final = "ended with its parent"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the memory of ended levels, events and operations.

    ``levels`` and ``failed_levels`` are limits per operation at depth 1, at depth 2, and for all
    deeper levels. Failed levels count only for ``failed_levels``.
    """

    levels: int = 400
    failed_levels: int = 100
    events: int = 500
    failed_events: int = 500
    history: int = 200
    history_levels: int = 5_000
    waiting_events: int = 20_000
    waiting_levels: int = 100_000
    waiting_operations: int = 10_000
    """Ended levels that wait for a tick. Beyond it, ended operations wait in their smallest form.
    """
    waiting_end_bytes: int = 32 * 1024 * 1024
    """Memory of ended operations in their smallest form. Half of it is used if there is a file."""


WAITING_DROPPED: Final[tuple[RejectionReason, str, None]] = (
    "waiting",
    "Ended levels were left out of the journal and the exports: no tick collected them in time.",
    None,
)
"""Reason and text of an ended level that was dropped."""


# Why no "Error" in the name: it is a signal to the live store, and no caller receives it.
class OpenRejected(Exception):  # noqa: N818
    """A level was not started.

    ``can_rename`` is True when it can start under another id.
    """

    def __init__(self, reason: RejectionReason, text: str, *, can_rename: bool = False) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text
        self.can_rename = can_rename


class Tree:
    """Active operations and their nodes.

    ``on_late_count`` is called for each unit that is counted on an ended level.
    """

    def __init__(
        self,
        instance: str,
        limits: Limits,
        clock: Callable[[], float],
        now: Callable[[], float],
        create_id: Callable[[], str],
        on_late_count: Callable[[], None],
        stall_after: float = DEFAULT_STALL_AFTER_S,
    ) -> None:
        self.active: dict[Node, None] = {}
        self.operations: dict[str, Operation] = {}
        self.closed: dict[Node, None] = {}
        """Ended levels and announced stages that no change set has reported."""
        self.dropped_levels = 0
        """Number of levels that were dropped from ``closed``."""
        self.evicted: list[tuple[str, str]] = []
        """Run and path of the levels that sinks have to drop."""
        self.items: dict[tuple[str, str, str], Number] = {}
        """Units by operation type, level type and outcome that no change set has reported."""
        self.late_rejections: list[tuple[RejectionReason, str, CallSite | None]] = []
        """Reason, text and level's call site of what was rejected while the lock was held. The
        store reports them without it.
        """
        self._instance = instance
        self._limits = limits
        self._clock = clock
        self._now = now
        self._create_id = create_id
        self._on_late_count = on_late_count
        self._stall_after = stall_after

    # --- start -----------------------------------------------------------------------------------

    def start_level_locked(self, parent: Node | None, spec: Spec, *, rename: bool = False) -> Node:
        """Start a level below ``parent``, or an operation without a parent.

        Raises OpenRejected when the parent has ended, or when the id is in use and ``rename`` is
        False.
        """
        if parent is None:
            node = self._create_operation_locked(spec, rename)
        elif parent in self.active:
            node = self._create_child_locked(parent, spec, rename)
        else:
            raise _reject_ended_parent(spec.type)
        self._activate_locked(node)
        return node

    def start_stage_locked(self, parent: Node, spec: Spec, ended: list[Node]) -> Node:
        """Start a stage of ``parent``.

        End the current stage and skip the declared stages between them.

        The nodes that end are appended to ``ended``. Raises OpenRejected for an undeclared or an
        earlier stage.
        """
        if parent not in self.active:
            raise _reject_ended_parent(f"stage {spec.name!r}")
        stages = None if parent.children is None else parent.children.stages
        if stages is None:
            self._end_current_stage_locked(parent, ended)
            stage = self._create_child_locked(parent, spec, rename=True)
        else:
            stage = self._advance_to_stage_locked(stages, spec.id or "", ended)
        self._activate_locked(stage)
        if parent.children is not None:
            parent.children.stage = stage
        return stage

    def _end_current_stage_locked(self, parent: Node, ended: list[Node]) -> None:
        stage = None if parent.children is None else parent.children.stage
        if stage is not None:
            self.end_level_locked(stage, Status.COMPLETED, ended)

    def _advance_to_stage_locked(self, stages: list[Node], name: str, ended: list[Node]) -> Node:
        stage, index = _find_next_stage(stages, name)
        for earlier in stages[:index]:
            if earlier.status is Status.RUNNING:
                self.end_level_locked(earlier, Status.COMPLETED, ended)
            elif earlier.status is Status.PENDING:
                self._skip_stage_locked(earlier)
        if stage.status.finished:
            stage = stages[index] = self._reopen_locked(stage, stage.spec)
        return stage

    def _create_operation_locked(self, spec: Spec, rename: bool) -> Node:
        id_ = spec.id if spec.id is not None else f"{spec.type}-{self._create_id()[:8]}"
        if id_ in self.operations:
            id_ = _find_free_id(id_, self.operations, "operation", rename)
        operation = Operation(id_, spec.type, self._create_id(), self._instance, self._stall_after)
        node = operation.root = Node(operation, None, "", id_, spec)
        node.name = spec.name if spec.name is not None else spec.type
        self.operations[id_] = operation
        return node

    def _create_child_locked(self, parent: Node, spec: Spec, rename: bool) -> Node:
        children = parent.children
        if children is None:
            children = parent.children = Children()
        type_, id_ = spec.type, spec.id
        if id_ is None:
            id_, segment = _create_number(children, type_)
        else:
            segment = encode_segment(type_, id_)
            before = children.nodes.get(segment)
            if before is not None:
                if before.status.finished:
                    return self._reopen_locked(before, spec)
                ids = {node.id for node in children.nodes.values() if node.spec.type == type_}
                id_ = _find_free_id(id_, ids, type_, rename)
                segment = encode_segment(type_, id_)
        path = f"{parent.path}/{segment}" if parent.path else segment
        node = Node(parent.operation, parent, path, id_, spec)
        node.path_segment = segment
        if spec.name is None and spec.id is None:
            node.name = f"{type_} {id_}"
        node.order = children.created
        children.created += 1
        children.nodes[segment] = node
        return node

    def _reopen_locked(self, before: Node, spec: Spec) -> Node:
        """Return the next attempt of an ended level at the same path.

        Subtract the counts of the earlier attempt.
        """
        node = Node(before.operation, before.parent, before.path, before.id, spec)
        node.name = spec.name if spec.name is not None else before.name
        node.attempt = before.attempt + 1
        node.order = before.order
        node.declared = before.declared
        node.path_segment = before.path_segment
        node.sent_sequence = before.sent_sequence
        if node.operation.resumed_units is not None:
            node.operation.resumed_units.pop(node.path, None)
        self._discard_attempt_locked(before)
        siblings = None if before.parent is None else before.parent.children
        if siblings is not None:
            if before.status is Status.CANCELLED and not before.declared:
                share = before.spec.weight * (before.reported_ratio or 0.0)
                siblings.cancelled_weight -= share
                siblings.partial_weight -= share
            elif not before.declared:
                siblings.done_weight -= before.spec.weight
            failed, skipped = _count_failed_and_skipped_units(before)
            siblings.failed -= failed
            siblings.failures -= before.reported_failures
            siblings.skipped -= skipped
            siblings.add_ended(before.status, -1)
            siblings.ended_early -= before.ended_early
            siblings.nodes[before.path_segment] = node
        return node

    def _discard_attempt_locked(self, before: Node) -> None:
        """Drop an earlier attempt with the levels below it.

        Sinks drop only the levels below it, because the next attempt has the same path.
        """
        ended = before.operation.ended
        for node in walk_levels(before):
            node.evicted = True
            if ended is not None:
                ended.remove(node)
            self.closed.pop(node, None)
            if node is not before and node.sent_sequence:
                self.evicted.append((node.operation.run, node.path))

    def _activate_locked(self, node: Node) -> None:
        node.status = Status.RUNNING
        now = self._now()
        node.started_clock = node.advanced_clock = node.observed_clock = clock = self._clock()
        node.started_at = node.advanced_at = node.observed_at = node.operation.date(now, clock)
        node.info, node.dirty = None, True
        self.active[node] = None
        parent = node.parent
        if parent is not None:
            if parent.children is not None:
                parent.children.running += 1
            parent.dirty = parent.has_advanced = True
        if node.declared:
            self.closed.pop(node, None)
        if node.spec.stages is not None:
            self._declare_stages_locked(node, node.spec.stages)

    def _declare_stages_locked(self, node: Node, stages: Stages) -> None:
        """Add the stages as pending children and report them in the next change set."""
        declared = []
        for stage in stages:
            spec = Spec(
                semconv.STAGE, stage.name, stage.name, None, None, stage.weight, None, None, NO_METADATA
            )
            child = self._create_child_locked(node, spec, rename=True)
            child.declared = True
            declared.append(child)
            self.closed[child] = None
        if node.children is not None:
            node.children.stages = declared

    # --- end -------------------------------------------------------------------------------------

    def end_level_locked(self, node: Node, status: Status, ended: list[Node]) -> None:
        """End a level and all running levels below it.

        Append the nodes that end to ``ended``, children first.
        """
        if node not in self.active:
            return
        if node.children is not None and node.children.running:
            running = [
                child for child in walk_levels(node) if child is not node and child.status is Status.RUNNING
            ]
            for child in reversed(running):
                # Why: the last stage ends like the earlier ones, which the start of the next stage
                # completed.
                if child.declared and child.parent is node and status is Status.COMPLETED:
                    self._deactivate_locked(child, status, ended)
                    continue
                child.message = REASON_PARENT_ENDED
                self._deactivate_locked(child, Status.CANCELLED, ended)
        self._deactivate_locked(node, status, ended)

    def _deactivate_locked(self, node: Node, status: Status, ended: list[Node]) -> None:
        stages = None if node.children is None else node.children.stages
        if stages is not None and status in (Status.COMPLETED, Status.SKIPPED):
            for stage in stages:
                if stage.status is Status.PENDING:
                    self._skip_stage_locked(stage)
        now, clock = self._now(), self._clock()
        if node.parent is None and node.operation.pauses is not None:
            node.operation.pauses.close(clock)
        node.status = status
        node.duration = max(0.0, clock - (node.started_clock or 0.0))
        node.has_advanced = True
        node.count_one = self._on_late_count
        self.update_level_locked(node, clock, now)
        node.ended_at = node.observed_at
        self._move_to_ended_locked(node, status)
        ended.append(node)

    def _skip_stage_locked(self, stage: Node) -> None:
        stage.status = Status.SKIPPED
        if stage.parent is not None and stage.parent.children is not None:
            stage.parent.children.skipped += 1
            stage.parent.children.add_ended(Status.SKIPPED)
        now, clock = self._now(), self._clock()
        self.update_level_locked(stage, clock, now)
        self.closed[stage] = None

    def _move_to_ended_locked(self, node: Node, status: Status) -> None:
        """Add an ended level to its parent's counts and to the operation's ended levels."""
        del self.active[node]
        self.closed[node] = None
        if len(self.closed) > self._limits.waiting_levels:
            self._drop_oldest_closed_locked()
        operation = node.operation
        if node.parent is None:
            self.operations.pop(operation.id, None)
            return
        if node.parent.children is not None:
            _add_to_parent_locked(node, status, node.parent.children)
        if node.declared:
            return
        if operation.ended is None:
            operation.ended = EndedLevels(self._limits.levels, self._limits.failed_levels)
        operation.ended.add(node, self._evict_locked)

    def _drop_oldest_closed_locked(self) -> None:
        """Drop the level that has waited longest for a tick, but no operation.

        This happens only when ticks hang.
        """
        for _ in range(len(self.closed)):
            oldest = next(iter(self.closed))
            del self.closed[oldest]
            if oldest.parent is not None:
                self.dropped_levels += 1
                self.late_rejections.append(WAITING_DROPPED)
                return
            # Why: it waits again behind the levels, and its end is never dropped here.
            self.closed[oldest] = None

    def _evict_locked(self, node: Node) -> None:
        node.evicted = True
        if node.operation.resumed_units is not None:
            node.operation.resumed_units.pop(node.path, None)
        self.closed.pop(node, None)
        siblings = None if node.parent is None else node.parent.children
        if siblings is not None and siblings.nodes.get(node.path_segment) is node:
            del siblings.nodes[node.path_segment]
        if node.sent_sequence:
            self.evicted.append((node.operation.run, node.path))

    # --- figures ---------------------------------------------------------------------------------

    def update_level_locked(self, node: Node, clock: float, now: float) -> None:
        """Update the figures of a level and count its newly completed units.

        ``clock`` and ``now`` are monotonic and Unix seconds. The last update may be newer.
        """
        failed, skipped = node.failed - node.failed_below, node.skipped
        update_figures_locked(node, clock, now)
        if node.counter is None and node.children is None and node.extras is None:
            return
        if node.extras is not None and node.extras.exceeds_total:
            self._warn_exceeded_total_locked(node, node.extras)
        failed_units = node.failed - node.failed_below
        if failed_units > failed:
            self._count_units_locked(node, "failed", failed_units - failed)
        if node.skipped > skipped:
            self._count_units_locked(node, "skipped", node.skipped - skipped)
        # Why the highest value: an outcome may be counted before its unit is done.
        completed = node.current - failed_units - node.skipped
        if completed > node.counted_completed:
            self._count_units_locked(node, "completed", completed - node.counted_completed)
            node.counted_completed = completed

    def update_if_needed_locked(self, node: Node, clock: float, now: float) -> bool:
        """Update the figures of a level if they changed.

        Return True if so. Call it for the levels below first.
        """
        is_due = node.sequence == 0 or (node.status is Status.RUNNING and needs_update(node))
        if is_due:
            self.update_level_locked(node, clock, now)
        return is_due

    def _warn_exceeded_total_locked(self, node: Node, extras: LevelExtras) -> None:
        extras.exceeds_total = False
        if not extras.has_warned:
            extras.has_warned = True
            level = repr(join_title(node.spec.type, node.name))
            expected = f"expected at most its total {node.total}"
            text = f"Invalid count of {level}: {expected}. Raise it with set_total()."
            self.late_rejections.append(("beyond_total", text, node.call_site))

    def _count_units_locked(self, node: Node, outcome: str, units: Number) -> None:
        key = (node.operation.type, node.spec.type, outcome)
        self.items[key] = self.items.get(key, 0) + units


def _reject_ended_parent(level: str) -> OpenRejected:
    return OpenRejected(
        "ended",
        f"Invalid parent of {level}: expected a running level, but it has ended. Start {level} earlier.",
    )


def _find_next_stage(stages: list[Node], name: str) -> tuple[Node, int]:
    """Return a declared stage that may start now, and its index. Raises OpenRejected."""
    names = [stage.id for stage in stages]
    if name not in names:
        msg = f"Invalid stage {name!r}: expected one of {', '.join(names)}. Declare it in `stages`."
        raise OpenRejected("stage", msg)
    index = names.index(name)
    reached = max((i for i, stage in enumerate(stages) if stage.status is not Status.PENDING), default=-1)
    stage = stages[index]
    if index < reached or stage.status not in (Status.PENDING, Status.FAILED, Status.CANCELLED):
        msg = f"Invalid stage {name!r}: expected a stage after {names[reached]!r}. Stages only move forward."
        raise OpenRejected("stage", msg)
    return stage, index


def _find_free_id(id_: str, used_ids: Container[str], kind: str, rename: bool) -> str:
    """Return a free id derived from one in use.

    Raises OpenRejected unless ``rename``, so that it is reported.
    """
    if not rename:
        text = f"Invalid {kind} id {id_!r}: expected an id that is not in use"
        msg = f"{text}. Give each running {kind} its own id."
        raise OpenRejected("duplicate_id", msg, can_rename=True)
    return next(other for n in itertools.count(2) if (other := f"{id_}~{n}") not in used_ids)


def _create_number(children: Children, type_: str) -> tuple[str, str]:
    """Return the next free number of a type as an id, and its path segment."""
    stem = encode_segment(type_, "")
    while True:
        number = children.auto_ids[type_] = children.auto_ids.get(type_, 0) + 1
        id_ = str(number)
        segment = stem + id_
        if segment not in children.nodes:
            return id_, segment


def _add_to_parent_locked(node: Node, status: Status, siblings: Children) -> None:
    """Add an ended level to the counts of its parent."""
    siblings.running -= 1
    if status is Status.COMPLETED:
        siblings.ended_completed += 1
        siblings.ended_early += node.ended_early
    else:
        siblings.add_ended(status)
    if status is Status.CANCELLED and not node.declared:
        siblings.cancelled_weight += node.spec.weight * (node.reported_ratio or 0.0)
    if siblings.running == 0:
        # Why: it removes the rounding errors of the additions and subtractions.
        siblings.partial_weight = siblings.cancelled_weight
    if status is not Status.COMPLETED or node.failed or node.skipped:
        failed, skipped = _count_failed_and_skipped_units(node)
        siblings.failed += failed
        siblings.skipped += skipped
    if siblings.stage is node:
        siblings.stage = None
    if not node.declared and status is not Status.CANCELLED:
        siblings.done_weight += node.spec.weight


def _count_failed_and_skipped_units(node: Node) -> tuple[int, int]:
    """Return the parent's units that failed and that were skipped in an ended level.

    A level counts as its weight in units of its parent, one by default. When its weight equals its
    total, as for a folder of files, its own units are the parent's. Then its failed units failed in
    the parent, too.
    """
    units = count_parent_units(node)
    if node.status is Status.FAILED:
        return units, 0
    if node.status is Status.SKIPPED:
        return 0, units
    if not node.declared and node.total is not None and node.total == node.spec.weight:
        return min(node.failed - node.failed_below, units), min(node.skipped, units)
    return 0, 0


def walk_levels(node: Node) -> Iterator[Node]:
    """Yield a node and the levels below it, parents first, siblings in start order."""
    pending = [node]
    while pending:
        here = pending.pop()
        yield here
        if here.children is not None:
            # Why ``list`` first: it copies in one step of C, so a start in another thread cannot
            # interfere.
            children = list(here.children.nodes.values())
            children.sort(key=lambda child: child.order, reverse=True)
            pending.extend(children)
