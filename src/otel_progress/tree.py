"""The tree of live levels: where a level begins, ends, is entered again, and what an ended one leaves behind.

Not thread-safe by itself: the live store calls it with its lock held.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final

from otel_progress.model import NO_METADATA, Number, Snapshot, Status
from otel_progress.node import Node, Operation, Spec
from otel_progress.observe import changed, observe
from otel_progress.stages import Stages
from otel_progress.text import segment

STAGE: Final = "stage"
"""Type of the levels that stages are."""
REASON_PARENT_ENDED: Final = "ended with its parent"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what is kept in memory: ended levels and events an operation, ended operations and their levels in all."""

    levels: int = 400
    failed_levels: int = 100
    events: int = 500
    failed_events: int = 500
    history: int = 200
    history_levels: int = 5_000
    waiting_events: int = 20_000


class Tree:
    """Active operations and their nodes.

    ``reject(reason, text)`` is told of what had to be refused, and may raise; ``note(reason, text)`` of what was found while making a
    snapshot, and must not.
    """

    def __init__(
        self,
        instance: str,
        limits: Limits,
        clock: Callable[[], float],
        now: Callable[[], float],
        ids: Callable[[], str],
        reject: Callable[[str, str], None],
        note: Callable[[str, str], None],
    ) -> None:
        self.active: dict[Node, None] = {}
        self.operations: dict[str, Operation] = {}
        self.closed: dict[Node, None] = {}
        self.evicted: list[tuple[str, str]] = []
        self.items: dict[tuple[str, str, str], Number] = {}
        self._instance = instance
        self._limits = limits
        self._clock = clock
        self._now = now
        self._ids = ids
        self._reject = reject
        self._note = note

    # --- begin -------------------------------------------------------------------------------------------------

    def open(self, parent: Node | None, spec: Spec) -> Node | None:
        """Begin a level under ``parent``, or an operation without one; None when the parent has ended."""
        if parent is not None and (parent.status.finished or parent not in self.active):
            self._reject("ended", f"{spec.type} was not begun: the level above it has ended; begin it before that")
            return None
        node = self._new_operation(spec) if parent is None else self._new_child(parent, spec)
        self._begin(node)
        return node

    def open_stage(self, parent: Node, name: str, ended: list[Node]) -> Node | None:
        """Begin a declared stage: end the one before, skip those between; None when it is unknown or lies behind."""
        stages = parent.stages or []
        names = [stage.id for stage in stages]
        if name not in names or parent not in self.active:
            self._reject("stage", f"stage {name!r} was not begun; the declared stages are {', '.join(names)}")
            return None
        index = names.index(name)
        reached = max((i for i, stage in enumerate(stages) if stage.status is not Status.PENDING), default=-1)
        stage = stages[index]
        if index < reached or stage.status not in (Status.PENDING, Status.FAILED, Status.CANCELLED):
            self._reject("stage", f"stage {name!r} was refused: {names[reached]!r} has been reached, and stages only go forward")
            return None
        for earlier in stages[:index]:
            if earlier.status is Status.RUNNING:
                self.close(earlier, Status.COMPLETED, ended)
            elif earlier.status is Status.PENDING:
                self._skip(earlier)
        if stage.status.finished:
            stage = stages[index] = self._again(parent, stage, stage.spec)
        self._begin(stage)
        parent.stage = stage
        return stage

    def _new_operation(self, spec: Spec) -> Node:
        id_ = spec.id if spec.id is not None else f"{spec.type}-{self._ids()[:8]}"
        if id_ in self.operations:
            id_ = self._unused(id_, self.operations, "operation")
        operation = Operation(id_, spec.type, self._ids())
        node = operation.root = Node(operation, None, "", id_, spec)
        node.name = spec.name if spec.name is not None else spec.type
        self.operations[id_] = operation
        return node

    def _new_child(self, parent: Node, spec: Spec) -> Node:
        children = parent.children = {} if parent.children is None else parent.children
        id_ = spec.id if spec.id is not None else self._auto_id(parent, spec.type)
        part = segment(spec.type, id_)
        before = children.get(part)
        if before is not None:
            if before.status.finished:
                return self._again(parent, before, spec)
            id_ = self._unused(id_, {node.id for node in children.values() if node.spec.type == spec.type}, spec.type)
            part = segment(spec.type, id_)
        node = Node(parent.operation, parent, f"{parent.path}/{part}" if parent.path else part, id_, spec)
        node.part = part
        if spec.name is None and spec.id is None:
            node.name = f"{spec.type} {id_}"
        node.order = parent.born
        parent.born += 1
        children[part] = node
        return node

    def _auto_id(self, parent: Node, type_: str) -> str:
        ids = parent.auto_ids = {} if parent.auto_ids is None else parent.auto_ids
        ids[type_] = ids.get(type_, 0) + 1
        return str(ids[type_])

    def _unused(self, id_: str, taken: Container[str], what: str) -> str:
        self._reject("duplicate_id", f"{what} {id_!r} is running already; give each one its own id")
        return next(other for n in itertools.count(2) if (other := f"{id_}~{n}") not in taken)

    def _again(self, parent: Node, before: Node, spec: Spec) -> Node:
        """Enter an ended level once more: the same place, one attempt on, its earlier outcome taken back."""
        node = Node(before.operation, parent, before.path, before.id, spec)
        node.name = spec.name if spec.name is not None else before.name
        node.attempt, node.order, node.declared, node.part = before.attempt + 1, before.order, before.declared, before.part
        node.published = before.published
        parent.child_done -= 0 if before.declared else before.spec.weight
        parent.child_failed -= before.status is Status.FAILED
        parent.child_skipped -= before.status is Status.SKIPPED
        before.gone = True
        self.closed.pop(before, None)
        for kept in (before.operation.finished, before.operation.failed):
            if before in kept:
                kept.remove(before)
        if parent.children is not None:
            parent.children[before.part] = node
        return node

    def _begin(self, node: Node) -> None:
        node.status = Status.RUNNING
        node.started_at, node.started_clock = self._now(), self._clock()
        node.advanced_at, node.advanced_clock = node.started_at, node.started_clock
        node.info, node.dirty = None, True
        self.closed.pop(node, None)
        self.active[node] = None
        if node.parent is not None:
            node.parent.running += 1
            node.parent.dirty = node.parent.moved = True
        if node.spec.stages is not None and node.stages is None:
            self._declare(node, node.spec.stages)

    def _declare(self, node: Node, stages: Stages) -> None:
        """Announce the stages as pending children."""
        node.stages = []
        for stage in stages:
            spec = Spec(STAGE, stage.name, stage.name, None, None, stage.weight, None, None, NO_METADATA)
            child = self._new_child(node, spec)
            child.declared = True
            node.stages.append(child)
            self.closed[child] = None

    # --- end ---------------------------------------------------------------------------------------------------

    def close(self, node: Node, status: Status, ended: list[Node]) -> None:
        """End a level and what still runs below it; the nodes that ended are added to ``ended``, children first."""
        if node not in self.active:
            return
        if node.running:
            below = [child for child in walk(node) if child is not node and child.status is Status.RUNNING]
            for child in reversed(below):
                child.message = REASON_PARENT_ENDED
                self._end(child, Status.CANCELLED, ended)
        self._end(node, status, ended)

    def _end(self, node: Node, status: Status, ended: list[Node]) -> None:
        if node.stages is not None and status in (Status.COMPLETED, Status.SKIPPED):
            for stage in node.stages:
                if stage.status is Status.PENDING:
                    self._skip(stage)
        clock, now = self._clock(), self._now()
        node.status, node.ended_at = status, now
        node.duration = max(0.0, clock - (node.started_clock or 0.0))
        node.one = self._late
        node.moved = True
        self.observe(node, clock, now)
        self._fold(node)
        ended.append(node)

    def _late(self) -> None:
        self._reject("ended", "a unit was counted on a level that has ended; count before the end")

    def _skip(self, stage: Node) -> None:
        stage.status = Status.SKIPPED
        self.observe(stage, self._clock(), self._now())
        self.closed[stage] = None

    def _fold(self, node: Node) -> None:
        """Leave to the parent what counts, and keep only so many ended levels of an operation."""
        self.active.pop(node, None)
        self.closed[node] = None
        parent, operation = node.parent, node.operation
        if parent is None:
            self.operations.pop(operation.id, None)
            return
        parent.running -= 1
        if parent.running == 0:
            parent.child_partial = 0.0
        parent.child_failed += node.status is Status.FAILED
        parent.child_skipped += node.status is Status.SKIPPED
        parent.dirty = parent.moved = True
        if parent.stage is node:
            parent.stage = None
        if node.declared:
            return
        parent.child_done += node.spec.weight
        failed = node.status is Status.FAILED
        kept, limit = (operation.failed, self._limits.failed_levels) if failed else (operation.finished, self._limits.levels)
        kept.append(node)
        if len(kept) > limit:
            self._evict(kept.popleft())

    def _evict(self, node: Node) -> None:
        node.gone = True
        self.closed.pop(node, None)
        children = node.parent.children if node.parent is not None else None
        if children is not None and children.get(node.part) is node:
            del children[node.part]
        if node.published:
            self.evicted.append((node.operation.run, node.path))

    # --- snapshots ---------------------------------------------------------------------------------------------

    def observe(self, node: Node, clock: float, now: float) -> Snapshot:
        """Make the node's next snapshot and count the units of work done since the last one."""
        before = node.snapshot
        after = observe(node, clock, now, self._instance)
        if node.clamped:
            node.clamped = False
            if not node.warned:
                node.warned = True
                text = f"{node.spec.type} {node.name!r} counted beyond its total of {after.total}; raise it with set_total()"
                self._note("beyond_total", text)
        self._tally(node, before, after)
        return after

    def refresh(self, node: Node, clock: float, now: float) -> Snapshot:
        """Return a snapshot of the node that has all that was counted in it and below it up to now."""
        for below in reversed(list(walk(node))) if node.running or node.stages else (node,):
            if below.snapshot is None or (below.status is Status.RUNNING and changed(below)):
                self.observe(below, clock, now)
        return node.snapshot or self.observe(node, clock, now)

    def _tally(self, node: Node, before: Snapshot | None, after: Snapshot) -> None:
        """Count units by outcome; completed ones by their highest mark, since an outcome may be known before the unit is done."""
        failed, skipped = after.failed, after.skipped
        if before is not None:
            failed, skipped = failed - before.failed, skipped - before.skipped
        if failed > 0:
            self._count(node, "failed", failed)
        if skipped > 0:
            self._count(node, "skipped", skipped)
        completed = after.current - after.failed - after.skipped
        if completed > node.tallied:
            self._count(node, "completed", completed - node.tallied)
            node.tallied = completed

    def _count(self, node: Node, outcome: str, units: Number) -> None:
        key = (node.operation.type, node.spec.type, outcome)
        self.items[key] = self.items.get(key, 0) + units


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and all below it that are kept, parents before children, siblings in the order they were first seen."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        yield here
        if here.children:
            waiting.extend(sorted(here.children.values(), key=lambda child: child.order, reverse=True))
