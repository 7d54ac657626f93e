"""The tree of live levels: where a level begins, ends, is entered again, and what an ended one leaves behind.

Not thread-safe by itself: the live store calls it with its lock held.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final

from otel_progress import semconv
from otel_progress.model import NO_METADATA, Number, Status
from otel_progress.node import Below, Node, Operation, Spec
from otel_progress.observe import changed, measure
from otel_progress.stages import Stages
from otel_progress.text import segment

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
    waiting_levels: int = 100_000


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
        stages = (parent.below.stages if parent.below is not None else None) or []
        names = [stage.id for stage in stages]
        if parent not in self.active:
            self._reject("ended", f"stage {name!r} was not begun: the level above it has ended; begin it before that")
            return None
        if name not in names:
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
            stage = stages[index] = self._again(stage, stage.spec)
        self._begin(stage)
        if parent.below is not None:
            parent.below.stage = stage
        return stage

    def _new_operation(self, spec: Spec) -> Node:
        id_ = spec.id if spec.id is not None else f"{spec.type}-{self._ids()[:8]}"
        if id_ in self.operations:
            id_ = self._unused(id_, self.operations, "operation")
        operation = Operation(id_, spec.type, self._ids(), self._instance)
        node = operation.root = Node(operation, None, "", id_, spec)
        node.name = spec.name if spec.name is not None else spec.type
        self.operations[id_] = operation
        return node

    def _new_child(self, parent: Node, spec: Spec) -> Node:
        below = parent.below
        if below is None:
            below = parent.below = Below()
        type_, id_ = spec.type, spec.id
        if id_ is None:
            id_ = _number(below, type_)
        part = segment(type_, id_)
        before = below.nodes.get(part)
        if before is not None:
            if before.status.finished:
                return self._again(before, spec)
            id_ = self._unused(id_, {node.id for node in below.nodes.values() if node.spec.type == type_}, type_)
            part = segment(type_, id_)
        node = Node(parent.operation, parent, f"{parent.path}/{part}" if parent.path else part, id_, spec)
        node.part = part
        if spec.name is None and spec.id is None:
            node.name = f"{type_} {id_}"
        node.order = below.born
        below.born += 1
        below.nodes[part] = node
        return node

    def _unused(self, id_: str, taken: Container[str], what: str) -> str:
        self._reject("duplicate_id", f"{what} {id_!r} is running already; give each one its own id")
        return next(other for n in itertools.count(2) if (other := f"{id_}~{n}") not in taken)

    def _again(self, before: Node, spec: Spec) -> Node:
        """Enter an ended level once more: the same place, one attempt on, its earlier outcome taken back."""
        node = Node(before.operation, before.parent, before.path, before.id, spec)
        node.name = spec.name if spec.name is not None else before.name
        node.attempt, node.order, node.declared, node.part = before.attempt + 1, before.order, before.declared, before.part
        node.sent = before.sent
        self._forget(before)
        below = None if before.parent is None else before.parent.below
        if below is not None:
            below.done -= 0 if before.declared else before.spec.weight
            lost, passed = _units_lost(before)
            below.failed -= lost
            below.skipped -= passed
            below.nodes[before.part] = node
        return node

    def _forget(self, before: Node) -> None:
        """Let go of an earlier attempt with all below it; sinks are told of the latter, the level itself goes on there."""
        for node in walk(before):
            node.gone = True
            self.closed.pop(node, None)
            if node is not before and node.sent:
                self.evicted.append((node.operation.run, node.path))
        for kept in (before.operation.finished, before.operation.failed):
            if any(node.gone for node in kept):
                left = [node for node in kept if not node.gone]
                kept.clear()
                kept.extend(left)

    def _begin(self, node: Node) -> None:
        node.status = Status.RUNNING
        node.started_at = node.advanced_at = self._now()
        node.started_clock = node.advanced_clock = self._clock()
        node.info, node.dirty = None, True
        self.active[node] = None
        parent = node.parent
        if parent is not None:
            if parent.below is not None:
                parent.below.running += 1
            parent.dirty = parent.moved = True
        if node.declared:
            self.closed.pop(node, None)
        if node.spec.stages is not None:
            self._declare(node, node.spec.stages)

    def _declare(self, node: Node, stages: Stages) -> None:
        """Announce the stages as pending children."""
        announced = []
        for stage in stages:
            spec = Spec(semconv.STAGE, stage.name, stage.name, None, None, stage.weight, None, None, NO_METADATA)
            child = self._new_child(node, spec)
            child.declared = True
            announced.append(child)
            self.closed[child] = None
        if node.below is not None:
            node.below.stages = announced

    # --- end ---------------------------------------------------------------------------------------------------

    def close(self, node: Node, status: Status, ended: list[Node]) -> None:
        """End a level and what still runs below it; the nodes that ended are added to ``ended``, children first."""
        if node not in self.active:
            return
        if node.below is not None and node.below.running:
            running = [child for child in walk(node) if child is not node and child.status is Status.RUNNING]
            for child in reversed(running):
                if child.declared and child.parent is node and status is Status.COMPLETED:
                    self._end(child, status, ended)  # the last stage ends as the ones before it do: with what comes after
                    continue
                child.message = REASON_PARENT_ENDED
                self._end(child, Status.CANCELLED, ended)
        self._end(node, status, ended)

    def _end(self, node: Node, status: Status, ended: list[Node]) -> None:
        below = node.below
        if below is not None and below.stages is not None and status in (Status.COMPLETED, Status.SKIPPED):
            for stage in below.stages:
                if stage.status is Status.PENDING:
                    self._skip(stage)
        clock, now = self._clock(), self._now()
        node.status, node.ended_at = status, now
        node.duration = max(0.0, clock - (node.started_clock or 0.0))
        node.moved = True
        node.one = self._late
        self.measure(node, clock, now)
        self._fold(node, status)
        ended.append(node)

    def _late(self) -> None:
        self._reject("ended", "a unit was counted on a level that has ended; count before the end")

    def _skip(self, stage: Node) -> None:
        stage.status = Status.SKIPPED
        if stage.parent is not None and stage.parent.below is not None:
            stage.parent.below.skipped += 1
        self.measure(stage, self._clock(), self._now())
        self.closed[stage] = None

    def _fold(self, node: Node, status: Status) -> None:
        """Leave to the parent what counts, and keep only so many ended levels of an operation."""
        del self.active[node]
        self.closed[node] = None
        parent, operation = node.parent, node.operation
        if parent is None:
            self.operations.pop(operation.id, None)
            return
        failed = status is Status.FAILED
        below = parent.below
        if below is not None:
            below.running -= 1
            if below.running == 0:
                below.partial = 0.0
            lost, passed = _units_lost(node)
            below.failed += lost
            below.skipped += passed
            if node.declared:
                below.stage = None if below.stage is node else below.stage
                return
            below.done += node.spec.weight
        kept = operation.failed if failed else operation.finished
        kept.append(node)
        if len(kept) > (self._limits.failed_levels if failed else self._limits.levels):
            self._evict(kept.popleft())
        if len(self.closed) > self._limits.waiting_levels:
            self._let_go()

    def _let_go(self) -> None:
        """Forget the ended level that has waited longest for a tick: ticks are stuck."""
        del self.closed[next(iter(self.closed))]
        self._note("waiting", "ended levels were left out of the journal and exports: no tick took them in time")

    def _evict(self, node: Node) -> None:
        node.gone = True
        self.closed.pop(node, None)
        below = None if node.parent is None else node.parent.below
        if below is not None and below.nodes.get(node.part) is node:
            del below.nodes[node.part]
        if node.sent:
            self.evicted.append((node.operation.run, node.path))

    # --- figures -----------------------------------------------------------------------------------------------

    def measure(self, node: Node, clock: float, now: float) -> None:
        """Take the node's figures and count the units of work done since they were taken last."""
        failed, skipped = node.failed, node.skipped
        measure(node, clock, now)
        if node.clamped:
            self._warn_clamped(node)
        if node.failed > failed:
            self._count(node, "failed", node.failed - failed)
        if node.skipped > skipped:
            self._count(node, "skipped", node.skipped - skipped)
        # By their highest mark, since an outcome may be known before its unit is done.
        completed = node.current - node.failed - node.skipped
        if completed > node.tallied:
            self._count(node, "completed", completed - node.tallied)
            node.tallied = completed

    def refresh(self, node: Node, clock: float, now: float) -> None:
        """Take the node's figures if they have changed; those below it come before."""
        if node.sequence == 0 or (node.status is Status.RUNNING and changed(node)):
            self.measure(node, clock, now)

    def _warn_clamped(self, node: Node) -> None:
        node.clamped = False
        if not node.warned:
            node.warned = True
            text = f"{node.spec.type} {node.name!r} counted beyond its total of {node.total}; raise it with set_total()"
            self._note("beyond_total", text)

    def _count(self, node: Node, outcome: str, units: Number) -> None:
        key = (node.operation.type, node.spec.type, outcome)
        self.items[key] = self.items.get(key, 0) + units


def _number(below: Below, type_: str) -> str:
    """Return the next number as the id of a level of this type, past those that are some level's own id."""
    while True:
        number = below.auto_ids[type_] = below.auto_ids.get(type_, 0) + 1
        if segment(type_, str(number)) not in below.nodes:
            return str(number)


def _units_lost(node: Node) -> tuple[int, int]:
    """Return how many of the parent's units failed and were skipped in an ended level.

    A level counts one unit above, or as many as it weighs. Where its own units are the parent's (its weight is its total, as for a
    folder of files), those that failed in it failed above, too.
    """
    weight = max(1, int(node.spec.weight))
    if node.status is Status.FAILED:
        return (1 if node.declared else weight), 0
    if node.status is Status.SKIPPED:
        return 0, (1 if node.declared else weight)
    if not node.declared and node.total is not None and node.total == node.spec.weight:
        return min(node.failed, weight), min(node.skipped, weight)
    return 0, 0


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and all below it that are kept, parents before children, siblings in the order they were first seen."""
    waiting = [node]
    while waiting:
        here = waiting.pop()
        yield here
        if here.below is not None:
            children = list(here.below.nodes.values())  # in one step of C, so that a begin in another thread does no harm
            children.sort(key=lambda child: child.order, reverse=True)
            waiting.extend(children)
