"""Tree of the levels of this process.

Methods whose name ends in ``_locked`` require the lock of the live store.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from otel_progress import semconv
from otel_progress.live.completed_work import CompletedWork
from otel_progress.live.figures import (
    count_parent_units,
    is_restored,
    needs_update,
    update_figures_locked,
)
from otel_progress.live.node import (
    CallSite,
    Children,
    EndedLevels,
    LevelExtras,
    Node,
    Operation,
    Spec,
    TotalReference,
    UnitCount,
    find_loop_status,
)
from otel_progress.locking import create_once, store_together
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
        self.items: dict[tuple[str, str, str], UnitCount] = {}
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
        self.restart_curve: Callable[[Node], None] = lambda node: None
        """Called with the lock when a level starts with units of earlier sessions."""

    # --- start -----------------------------------------------------------------------------------

    def create_node(self, parent: Node | None, spec: Spec) -> Node:
        """Return a pending node below ``parent``, or that of an operation.

        Needs no lock. :meth:`start_level_locked` adds the node to the tree.
        """
        if parent is None:
            return self._create_operation(spec)
        children = parent.children or create_once(parent, "children", Children)
        if spec.id is None:
            share = parent.operation.share
            id_, segment = _create_number(children, spec.type, "" if share is None else share.suffix)
        else:
            id_, segment = spec.id, encode_segment(spec.type, spec.id)
        path = f"{parent.path}/{segment}" if parent.path else segment
        node = Node(parent.operation, parent, path, id_, spec)
        node.path_segment = segment
        if spec.name is None and spec.id is None:
            node.name = f"{spec.type} {id_}"
        return node

    def _create_operation(self, spec: Spec) -> Node:
        id_ = spec.id if spec.id is not None else f"{spec.type}-{self._create_id()[:8]}"
        operation = Operation(id_, spec.type, self._create_id(), self._instance, self._stall_after)
        operation.is_id_given = spec.id is not None
        node = operation.root = Node(operation, None, "", id_, spec)
        node.name = spec.name if spec.name is not None else spec.type
        return node

    def start_level_locked(self, node: Node, *, rename: bool = False) -> bool:
        """Add a pending node to the tree and start it.

        Return False if that was done before.

        Raises OpenRejected when the parent has ended, or when the id is in use and ``rename`` is
        False. Repeat the call after an exception interrupted it.
        """
        if node in self.active and node.counted_status is not Status.PENDING:
            return False
        parent = node.parent
        if parent is None:
            self._place_operation_locked(node, rename)
        elif parent in self.active:
            children = parent.children
            if children is None or node.path_segment in children.nodes:
                self._place_child_locked(node, parent, rename)
            else:
                # Why not _place_child_locked: most starts of levels end here.
                node.order = children.created
                children.created += 1
                children.nodes[node.path_segment] = node
        else:
            raise _reject_ended_parent(node.spec.type)
        self._activate_locked(node)
        return True

    def start_stage_locked(
        self, parent: Node, spec: Spec, started: list[Node], ended: list[Node], node: Node | None = None
    ) -> Node:
        """Start a stage of ``parent``.

        End the current stage and skip the declared stages between them.

        ``node`` is the pending node of an undeclared stage. By default a new one is created.
        The stage is appended to ``started``, and the nodes that end are appended to ``ended``.
        Raises OpenRejected for an undeclared or an earlier stage.
        """
        if parent not in self.active:
            raise _reject_ended_parent(f"stage {spec.name!r}")
        stages = None if parent.children is None else parent.children.stages
        if stages is None:
            self._end_current_stage_locked(parent, ended)
            stage = self.create_node(parent, spec) if node is None else node
            self._place_child_locked(stage, parent, rename=True)
        else:
            stage = self._advance_to_stage_locked(stages, spec.id or "", ended)
        started.append(stage)
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
            before, stage = stage, self._create_attempt_locked(stage, stage.spec)
            self._replace_attempt_locked(before, stage)
            stages[index] = stage
        return stage

    def _place_operation_locked(self, node: Node, rename: bool) -> None:
        operation = node.operation
        known = self.operations.get(operation.id)
        if known is not None and known is not operation:
            node.id = operation.id = _find_free_id(operation.id, self.operations, "operation", rename)
        self.operations[operation.id] = operation

    def find_run_locked(self, run: str, ids: Iterable[str]) -> Operation | None:
        """Return the active operation of a run, which probably has one of ``ids``."""
        likely = (self.operations.get(id_) for id_ in ids)
        found = itertools.chain(likely, self.operations.values())
        return next((each for each in found if each is not None and each.run == run), None)

    def rename_operation_locked(self, operation: Operation, used_ids: Container[str]) -> None:
        """Give an active operation an id that neither this process nor ``used_ids`` has.

        It stays the same unless ``used_ids`` contains it.
        """
        root, before = operation.root, operation.id
        if root is None or before not in used_ids:
            return
        stem = before if root.spec.id is None else root.spec.id
        new = next(
            other
            for n in itertools.count(2)
            if (other := f"{stem}~{n}") not in used_ids and other not in self.operations
        )
        # Why this order: other threads find the operation by its id without the lock.
        self.operations[new] = operation
        root.id = operation.id = new
        del self.operations[before]
        operation.is_renamed = root.dirty = True

    def _place_child_locked(self, node: Node, parent: Node, rename: bool) -> None:
        children = parent.children or create_once(parent, "children", Children)
        before = children.nodes.get(node.path_segment)
        if before is node:
            return
        if before is not None and node.spec.id is not None and before.status.finished:
            _copy_attempt(before, node)
            self._replace_attempt_locked(before, node)
            return
        if before is not None:
            self._rename_locked(node, parent, children, rename)
        node.order = children.created
        children.created += 1
        children.nodes[node.path_segment] = node

    def _rename_locked(self, node: Node, parent: Node, children: Children, rename: bool) -> None:
        """Give a node an id that no level below ``parent`` uses."""
        type_ = node.spec.type
        if node.spec.id is None:
            share = node.operation.share
            node.id, segment = _create_number(children, type_, "" if share is None else share.suffix)
            if node.spec.name is None:
                node.name = f"{type_} {node.id}"
        else:
            ids = {each.id for each in children.nodes.values() if each.spec.type == type_}
            node.id = _find_free_id(node.spec.id, ids, type_, rename)
            if node.spec.name is None:
                node.name = node.id
            segment = encode_segment(type_, node.id)
        node.path = f"{parent.path}/{segment}" if parent.path else segment
        node.path_segment = segment

    def _create_attempt_locked(self, before: Node, spec: Spec) -> Node:
        """Return the pending next attempt of an ended level at the same path."""
        node = Node(before.operation, before.parent, before.path, before.id, spec)
        node.path_segment = before.path_segment
        _copy_attempt(before, node)
        return node

    def _replace_attempt_locked(self, before: Node, node: Node) -> None:
        """Replace an ended level by its next attempt.

        Subtract the counts of the earlier attempt.
        """
        if node.operation.resumed_units is not None:
            node.operation.resumed_units.pop(node.path, None)
        self._discard_attempt_locked(before)
        siblings = None if before.parent is None else before.parent.children
        if siblings is not None:
            _subtract_from_parent_locked(before, siblings)
            siblings.nodes[before.path_segment] = node

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
            if node is not before and node.sent_sequence and node.operation.share is None:
                self.evicted.append((node.operation.run, node.path))

    def _activate_locked(self, node: Node) -> None:
        now = self._now()
        node.started_clock = node.advanced_clock = node.observed_clock = clock = self._clock()
        node.started_at = node.advanced_at = node.observed_at = node.operation.date(now, clock)
        node.info, node.dirty = None, True
        # Why first: an interrupted start is ended like any active level.
        self.active[node] = None
        node.status = Status.RUNNING
        parent = node.parent
        if parent is None:
            node.counted_status = Status.RUNNING
        else:
            siblings = parent.children
            if siblings is not None and node.counted_status is not Status.RUNNING:
                # Why this order: a number that is too high changes nothing.
                siblings.running, node.counted_status = siblings.running + 1, Status.RUNNING
            parent.dirty = parent.has_advanced = True
        if node.declared:
            self.closed.pop(node, None)
        if node.spec.stages is not None:
            self._declare_stages_locked(node, node.spec.stages)
        if node.operation.completed_work is not None:
            self._restore_levels_locked(node, node.operation.completed_work)

    def _restore_levels_locked(self, node: Node, work: CompletedWork) -> None:
        """Count what earlier sessions completed below a level that starts."""
        operation = node.operation
        if operation.resumed_units is not None and node.path in operation.resumed_units:
            return  # an exception interrupted the start
        earlier = work.work if node.parent is None else None
        count, weight = work.count_restored_levels(node.path)
        if not count and earlier is None:
            return
        units: Number = weight if earlier is None else earlier.count_units()
        if node.total is not None:
            units = min(units, node.total)
        children = node.children or create_once(node, "children", Children)
        has_own_count = earlier is not None and not earlier.root.counts_children
        children.done_weight = weight if has_own_count or children.stages is not None else units
        children.base_weight = children.done_weight
        children.ended_completed = count
        if has_own_count and units:
            node.ensure_counter().set(units)
        # Why also 0: it marks a resumed operation, which adds nothing to the history.
        operation.resumed_units = {**(operation.resumed_units or {}), node.path: units}
        # Why: the earlier session counted these units in its metrics.
        node.counted_completed = max(node.counted_completed, units)
        if units:
            self.restart_curve(node)

    def _settle_restored_locked(self, node: Node, work: CompletedWork) -> None:
        """Remove the result of an earlier session from the parent of an ended level.

        The level counts itself from then on.
        """
        parent = node.parent
        siblings = None if parent is None else parent.children
        if parent is None or siblings is None:
            return
        weight = work.take_restored(parent.path, node.path_segment)
        if weight is not None:
            store_together(
                (siblings, siblings),
                ("done_weight", "ended_completed"),
                (siblings.done_weight - weight, siblings.ended_completed - 1),
            )
        if node.status is Status.COMPLETED and node.spec.id is not None:
            work.add_level(parent.path, node.path_segment, 0 if node.declared else node.spec.weight)

    def _declare_stages_locked(self, node: Node, stages: Stages) -> None:
        """Add the stages as pending children and report them in the next change set."""
        declared = []
        for stage in stages:
            spec = Spec(
                semconv.STAGE, stage.name, stage.name, None, None, stage.weight, None, None, NO_METADATA
            )
            child = self.create_node(node, spec)
            known = None if node.children is None else node.children.nodes.get(child.path_segment)
            if known is not None and known.declared and known not in declared:
                child = known  # of a start that was interrupted
            else:
                child.declared = True
                self._place_child_locked(child, node, rename=True)
            declared.append(child)
            self.closed[child] = None
        if node.children is not None:
            node.children.stages = declared

    def declare_stage_locked(self, parent: Node, spec: Spec) -> Node:
        """Add a stage that another process declared to the stages of ``parent``."""
        stage = self.create_node(parent, spec)
        stage.declared = True
        self._place_child_locked(stage, parent, rename=True)
        children = parent.children or create_once(parent, "children", Children)
        children.stages = [*(children.stages or ()), stage]
        self.closed[stage] = None
        parent.dirty = True
        return stage

    def skip_stage_locked(self, stage: Node) -> None:
        """Skip a declared stage that has not started."""
        if stage.status is Status.PENDING:
            self._skip_stage_locked(stage)

    def release_contributed_locked(self, node: Node) -> None:
        """Drop an ended level of a share whose contribution was collected."""
        siblings = None if node.parent is None else node.parent.children
        if siblings is not None and siblings.nodes.get(node.path_segment) is node and not node.declared:
            del siblings.nodes[node.path_segment]

    # --- end -------------------------------------------------------------------------------------

    def end_level_locked(self, node: Node, status: Status, ended: list[Node]) -> None:
        """End a level and all running levels below it.

        Append the nodes that end to ``ended``, children first. Repeat the call after an exception
        interrupted it. An operation remains active until :meth:`drop_active_locked`.
        """
        if node not in self.active:
            return
        if node.children is not None and (node.children.running or node.status.finished):
            running = [child for child in walk_levels(node) if child is not node and child in self.active]
            for child in reversed(running):
                # Why: the last stage ends like the earlier ones, which the start of the next stage
                # completed.
                if child.declared and child.parent is node and status is Status.COMPLETED:
                    self._deactivate_locked(child, status, ended)
                    continue
                if child.status.finished:  # an exception interrupted its end
                    self._deactivate_locked(child, child.status, ended)
                    continue
                handle = child.handle
                is_dropped = handle is not None and handle() is None
                may_complete = is_dropped and status is Status.COMPLETED
                # Why with any status: such a level has done its work, but its library left it open.
                if (may_complete or isinstance(handle, TotalReference)) and (
                    find_loop_status(child, handle) is Status.COMPLETED
                ):
                    self._deactivate_locked(child, Status.COMPLETED, ended)
                    continue
                child.message = handle.reason if handle is not None and is_dropped else REASON_PARENT_ENDED
                self._deactivate_locked(child, Status.CANCELLED, ended)
        self._deactivate_locked(node, status, ended)

    def drop_active_locked(self, node: Node) -> None:
        """Remove an ended operation from the active levels, as the last step of its end."""
        self.active.pop(node, None)

    def list_interrupted_locked(self) -> list[Node]:
        """Return the levels whose end was interrupted by an exception."""
        return [node for node in self.active if node.status.finished]

    def _deactivate_locked(self, node: Node, status: Status, ended: list[Node]) -> None:
        stages = None if node.children is None else node.children.stages
        if stages is not None and status in (Status.COMPLETED, Status.SKIPPED):
            for stage in stages:
                if stage.status is Status.PENDING or (stage.status is Status.SKIPPED and stage.ratio != 1.0):
                    self._skip_stage_locked(stage)
        now, clock = self._now(), self._clock()
        if node.parent is None and node.operation.pauses is not None:
            node.operation.pauses.close(clock)
        node.status = status
        node.duration = max(0.0, clock - (node.started_clock or 0.0))
        node.has_advanced = True
        node.count_one = self._on_late_count
        node.handle = None
        self.update_level_locked(node, clock, now)
        node.ended_at = node.observed_at
        if not ended or ended[-1] is not node:
            ended.append(node)
        self._move_to_ended_locked(node, status)

    def _skip_stage_locked(self, stage: Node) -> None:
        self.closed[stage] = None
        siblings = None if stage.parent is None else stage.parent.children
        if is_restored(stage):
            # Why not skipped: an earlier session completed it, and the parent counts it already.
            store_together((stage, stage), ("status", "counted_status"), (Status.COMPLETED, Status.COMPLETED))
        if siblings is not None and stage.status is Status.PENDING:
            store_together(
                (stage, stage, siblings, siblings),
                ("status", "counted_status", "skipped", "ended_skipped"),
                (Status.SKIPPED, Status.SKIPPED, siblings.skipped + 1, siblings.ended_skipped + 1),
            )
        now, clock = self._now(), self._clock()
        self.update_level_locked(stage, clock, now)

    def _move_to_ended_locked(self, node: Node, status: Status) -> None:
        """Add an ended level to its parent's counts and to the operation's ended levels."""
        self.closed[node] = None
        if len(self.closed) > self._limits.waiting_levels:
            self._drop_oldest_closed_locked()
        operation = node.operation
        if node.parent is None:
            if self.operations.get(operation.id) is operation:
                del self.operations[operation.id]
            return
        if operation.completed_work is not None:
            self._settle_restored_locked(node, operation.completed_work)
        if node.parent.children is not None:
            _add_to_parent_locked(node, status, node.parent.children)
        # Why not in a share: a level stays until its contribution was collected.
        if not node.declared and operation.share is None:
            if operation.ended is None:
                operation.ended = EndedLevels(self._limits.levels, self._limits.failed_levels)
            operation.ended.add(node, self._evict_locked)
        # Why last: an end that an exception interrupts is repeated while the level is active.
        self.active.pop(node, None)

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
        update_figures_locked(node, clock, now)
        if node.counter is None and node.children is None and node.extras is None:
            return
        if node.operation.share is not None:
            return  # the owner counts the units of all processes
        if node.extras is not None and node.extras.exceeds_total:
            self._warn_exceeded_total_locked(node, node.extras)
        failed_units = node.failed - node.failed_below
        if failed_units > node.counted_failed:
            self._count_units_locked(node, "failed", node.counted_failed, failed_units)
        if node.skipped > node.counted_skipped:
            self._count_units_locked(node, "skipped", node.counted_skipped, node.skipped)
        # Why the highest value: an outcome may be counted before its unit is done.
        completed = node.current - failed_units - node.skipped
        if completed > node.counted_completed:
            self._count_units_locked(node, "completed", node.counted_completed, completed)

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

    def _count_units_locked(self, node: Node, outcome: str, counted: Number, units: Number) -> None:
        """Add the units beyond ``counted`` to the metrics."""
        key = (node.operation.type, node.spec.type, outcome)
        count = self.items.get(key)
        if count is None:
            count = self.items[key] = UnitCount()
        store_together((count, node), ("units", f"counted_{outcome}"), (count.units + units - counted, units))


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


def _create_number(children: Children, type_: str, suffix: str = "") -> tuple[str, str]:
    """Return the next free number of a type as an id, and its path segment.

    ``suffix`` distinguishes the processes of an operation.
    """
    stem = encode_segment(type_, "")
    next_number = children.auto_ids.get(type_)
    if next_number is None:
        next_number = children.auto_ids.setdefault(type_, itertools.count(1).__next__)
    while True:
        id_ = f"{next_number()}{suffix}"
        segment = stem + id_
        if segment not in children.nodes:
            return id_, segment


def _add_to_parent_locked(node: Node, status: Status, siblings: Children) -> None:
    """Add an ended level to the counts of its parent."""
    if siblings.stage is node:
        siblings.stage = None
    if node.counted_status.finished:
        return
    if status is Status.COMPLETED and not (node.failed or node.skipped or node.declared or node.ended_early):
        # Why one statement without a call: no signal handler, finalizer or other thread can run
        # within it. A tracer can raise within it, and leaves a number of running levels that is too
        # high, which changes nothing.
        node.counted_status, siblings.done_weight, siblings.ended_completed, siblings.running = (
            status,
            siblings.done_weight + node.spec.weight,
            siblings.ended_completed + 1,
            siblings.running - 1,
        )
        if siblings.running == 0:
            # Why: it removes the rounding errors of the additions and subtractions.
            siblings.partial_weight = siblings.cancelled_weight
        return
    _add_other_to_parent_locked(node, status, siblings)


def _add_other_to_parent_locked(node: Node, status: Status, siblings: Children) -> None:
    """Add an ended stage, or a level that did not complete all its units."""
    running = siblings.running - (1 if node.counted_status is Status.RUNNING else 0)
    cancelled_weight, done_weight = siblings.cancelled_weight, siblings.done_weight
    failed, skipped = siblings.failed, siblings.skipped
    if not node.declared:
        if status is Status.CANCELLED:
            cancelled_weight += node.spec.weight * (node.reported_ratio or 0.0)
        else:
            done_weight += node.spec.weight
    if status is not Status.COMPLETED or node.failed or node.skipped:
        more_failed, more_skipped = _count_failed_and_skipped_units(node)
        failed += more_failed
        skipped += more_skipped
    # Why: it removes the rounding errors of the additions and subtractions.
    partial_weight = siblings.partial_weight if running else cancelled_weight
    ended = getattr(siblings, _ENDED[status])
    store_together(
        (*(siblings,) * 8, node),
        _SUMS[status],
        (
            running,
            cancelled_weight,
            partial_weight,
            failed,
            skipped,
            done_weight,
            siblings.ended_early + (status is Status.COMPLETED and node.ended_early),
            ended + 1,
            status,
        ),
    )


def _subtract_from_parent_locked(node: Node, siblings: Children) -> None:
    """Subtract an ended level from the counts of its parent."""
    if not node.counted_status.finished:
        return
    cancelled_weight, done_weight = siblings.cancelled_weight, siblings.done_weight
    partial_weight = siblings.partial_weight
    if not node.declared:
        if node.status is Status.CANCELLED:
            share = node.spec.weight * (node.reported_ratio or 0.0)
            cancelled_weight -= share
            partial_weight -= share
        else:
            done_weight -= node.spec.weight
    failed, skipped = _count_failed_and_skipped_units(node)
    store_together(
        (*(siblings,) * 9, node),
        ("failures", *_SUMS[node.status]),
        (
            siblings.failures - node.reported_failures,
            siblings.running,
            cancelled_weight,
            partial_weight,
            siblings.failed - failed,
            siblings.skipped - skipped,
            done_weight,
            siblings.ended_early - (node.status is Status.COMPLETED and node.ended_early),
            getattr(siblings, _ENDED[node.status]) - 1,
            Status.PENDING,
        ),
    )


_ENDED: Final = {
    Status.COMPLETED: "ended_completed",
    Status.FAILED: "ended_failed",
    Status.CANCELLED: "ended_cancelled",
    Status.SKIPPED: "ended_skipped",
}
"""Name of the number of ended levels, by status."""


_SUMS: Final = {
    status: (
        "running",
        "cancelled_weight",
        "partial_weight",
        "failed",
        "skipped",
        "done_weight",
        "ended_early",
        name,
        "counted_status",
    )
    for status, name in _ENDED.items()
}
"""Counts of the levels below a level, and the status under which they include one of them."""


def _copy_attempt(before: Node, node: Node) -> None:
    """Copy what the next attempt of a level has from the earlier one."""
    node.id, node.path = before.id, before.path
    node.name = node.spec.name if node.spec.name is not None else before.name
    node.attempt = before.attempt + 1
    node.order = before.order
    node.declared = before.declared
    node.sent_sequence = before.sent_sequence


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
