"""The tree of live levels: where a level begins, ends, is entered again, and what an ended one leaves behind.

Not thread-safe by itself: the live store calls it with its lock held.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final

from otel_progress import semconv
from otel_progress.live.node import Children, Node, Operation, Spec
from otel_progress.live.snapshots import needs_update, update_figures
from otel_progress.model import NO_METADATA, Number, Status
from otel_progress.semconv import RejectionReason
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.stages import Stages
from otel_progress.text import encode_segment

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


class OpenRejected(Exception):  # noqa: N818 - a signal to the live store, never an error anybody sees
    """Something was not begun. ``can_rename`` says that it can be under another id, once the caller has been told."""

    def __init__(self, reason: RejectionReason, text: str, *, can_rename: bool = False) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text
        self.can_rename = can_rename


class Tree:
    """Active operations and their nodes.

    ``late`` is what counting on an ended level calls. ``notes`` collects what was found wrong, (reason, text), for the store to tell
    when it has let go of its lock.
    """

    def __init__(
        self,
        instance: str,
        limits: Limits,
        clock: Callable[[], float],
        now: Callable[[], float],
        ids: Callable[[], str],
        late: Callable[[], None],
        stall_after: float = DEFAULT_STALL_AFTER_S,
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
        self._on_late_count = late
        self._stall_after = stall_after
        self.notes: list[tuple[RejectionReason, str]] = []

    # --- begin -------------------------------------------------------------------------------------------------

    def open(self, parent: Node | None, spec: Spec, *, rename: bool = False) -> Node:
        """Begin a level under ``parent``, or an operation without one.

        Raises Refused when the parent has ended, and when the id is in use, unless ``rename`` says to find another one.
        """
        if parent is None:
            node = self._new_operation(spec, rename)
        elif parent in self.active:
            node = self._new_child(parent, spec, rename)
        else:
            raise _has_ended(spec.type)
        self._begin(node)
        return node

    def open_stage(self, parent: Node, spec: Spec, ended: list[Node]) -> Node:
        """Begin a stage: end the one before, skip declared ones between. Raises Refused when it is unknown or lies behind."""
        if parent not in self.active:
            raise _has_ended(f"stage {spec.name!r}")
        stages = None if parent.children is None else parent.children.stages
        if stages is None:
            self._end_stage(parent, ended)
            stage = self._new_child(parent, spec, rename=True)
        else:
            stage = self._declared_stage(stages, spec.id or "", ended)
        self._begin(stage)
        if parent.children is not None:
            parent.children.stage = stage
        return stage

    def _end_stage(self, parent: Node, ended: list[Node]) -> None:
        stage = None if parent.children is None else parent.children.stage
        if stage is not None:
            self.close(stage, Status.COMPLETED, ended)

    def _declared_stage(self, stages: list[Node], name: str, ended: list[Node]) -> Node:
        names = [stage.id for stage in stages]
        if name not in names:
            raise OpenRejected(
                "stage", f"stage {name!r} was not begun; the declared stages are {', '.join(names)}"
            )
        index = names.index(name)
        reached = max((i for i, stage in enumerate(stages) if stage.status is not Status.PENDING), default=-1)
        stage = stages[index]
        if index < reached or stage.status not in (Status.PENDING, Status.FAILED, Status.CANCELLED):
            msg = (
                f"stage {name!r} was refused: {names[reached]!r} has been reached, and stages only go forward"
            )
            raise OpenRejected("stage", msg)
        for earlier in stages[:index]:
            if earlier.status is Status.RUNNING:
                self.close(earlier, Status.COMPLETED, ended)
            elif earlier.status is Status.PENDING:
                self._skip(earlier)
        if stage.status.finished:
            stage = stages[index] = self._reopen(stage, stage.spec)
        return stage

    def _new_operation(self, spec: Spec, rename: bool) -> Node:
        id_ = spec.id if spec.id is not None else f"{spec.type}-{self._ids()[:8]}"
        if id_ in self.operations:
            id_ = _other_id(id_, self.operations, "operation", rename)
        operation = Operation(id_, spec.type, self._ids(), self._instance, self._stall_after)
        node = operation.root = Node(operation, None, "", id_, spec)
        node.name = spec.name if spec.name is not None else spec.type
        self.operations[id_] = operation
        return node

    def _new_child(self, parent: Node, spec: Spec, rename: bool) -> Node:
        below = parent.children
        if below is None:
            below = parent.children = Children()
        type_, id_ = spec.type, spec.id
        if id_ is None:
            id_, part = _number(below, type_)
        else:
            part = encode_segment(type_, id_)
            before = below.nodes.get(part)
            if before is not None:
                if before.status.finished:
                    return self._reopen(before, spec)
                id_ = _other_id(
                    id_, {node.id for node in below.nodes.values() if node.spec.type == type_}, type_, rename
                )
                part = encode_segment(type_, id_)
        node = Node(parent.operation, parent, f"{parent.path}/{part}" if parent.path else part, id_, spec)
        node.path_segment = part
        if spec.name is None and spec.id is None:
            node.name = f"{type_} {id_}"
        node.order = below.created
        below.created += 1
        below.nodes[part] = node
        return node

    def _reopen(self, before: Node, spec: Spec) -> Node:
        """Enter an ended level once more: the same place, one attempt on, its earlier outcome taken back."""
        node = Node(before.operation, before.parent, before.path, before.id, spec)
        node.name = spec.name if spec.name is not None else before.name
        node.attempt, node.order, node.declared, node.path_segment = (
            before.attempt + 1,
            before.order,
            before.declared,
            before.path_segment,
        )
        node.sent_sequence = before.sent_sequence
        if node.operation.resumed_units is not None:
            node.operation.resumed_units.pop(node.path, None)
        self._discard_attempt(before)
        below = None if before.parent is None else before.parent.children
        if below is not None:
            if before.status is Status.CANCELLED and not before.declared:
                share = before.spec.weight * (before.reported_ratio or 0.0)
                below.cancelled_weight -= share
                below.partial_weight -= share
            elif not before.declared:
                below.done_weight -= before.spec.weight
            lost, passed = _failed_and_skipped_units(before)
            below.failed -= lost
            below.skipped -= passed
            below.nodes[before.path_segment] = node
        return node

    def _discard_attempt(self, before: Node) -> None:
        """Let go of an earlier attempt with all below it; sinks are told of the latter, the level itself goes on there."""
        for node in walk(before):
            node.evicted = True
            self.closed.pop(node, None)
            if node is not before and node.sent_sequence:
                self.evicted.append((node.operation.run, node.path))
        for kept in (before.operation.finished, before.operation.failed):
            if any(node.evicted for node in kept):
                left = [node for node in kept if not node.evicted]
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
            if parent.children is not None:
                parent.children.running += 1
            parent.dirty = parent.has_advanced = True
        if node.declared:
            self.closed.pop(node, None)
        if node.spec.stages is not None:
            self._declare(node, node.spec.stages)

    def _declare(self, node: Node, stages: Stages) -> None:
        """Announce the stages as pending children."""
        announced = []
        for stage in stages:
            spec = Spec(
                semconv.STAGE, stage.name, stage.name, None, None, stage.weight, None, None, NO_METADATA
            )
            child = self._new_child(node, spec, rename=True)
            child.declared = True
            announced.append(child)
            self.closed[child] = None
        if node.children is not None:
            node.children.stages = announced

    # --- end ---------------------------------------------------------------------------------------------------

    def close(self, node: Node, status: Status, ended: list[Node]) -> None:
        """End a level and what still runs below it; the nodes that ended are added to ``ended``, children first."""
        if node not in self.active:
            return
        if node.children is not None and node.children.running:
            running = [child for child in walk(node) if child is not node and child.status is Status.RUNNING]
            for child in reversed(running):
                if child.declared and child.parent is node and status is Status.COMPLETED:
                    self._end(
                        child, status, ended
                    )  # the last stage ends as the ones before it do: with what comes after
                    continue
                child.message = REASON_PARENT_ENDED
                self._end(child, Status.CANCELLED, ended)
        self._end(node, status, ended)

    def _end(self, node: Node, status: Status, ended: list[Node]) -> None:
        below = node.children
        if below is not None and below.stages is not None and status in (Status.COMPLETED, Status.SKIPPED):
            for stage in below.stages:
                if stage.status is Status.PENDING:
                    self._skip(stage)
        clock, now = self._clock(), self._now()
        if node.parent is None and node.operation.pauses is not None:
            node.operation.pauses.close(clock)
        node.status, node.ended_at = status, now
        node.duration = max(0.0, clock - (node.started_clock or 0.0))
        node.has_advanced = True
        node.count_one = self._on_late_count
        self.update_figures(node, clock, now)
        self._fold(node, status)
        ended.append(node)

    def _skip(self, stage: Node) -> None:
        stage.status = Status.SKIPPED
        if stage.parent is not None and stage.parent.children is not None:
            stage.parent.children.skipped += 1
        self.update_figures(stage, self._clock(), self._now())
        self.closed[stage] = None

    def _fold(self, node: Node, status: Status) -> None:
        """Leave to the parent what counts, and keep only so many ended levels of an operation."""
        del self.active[node]
        self.closed[node] = None
        if len(self.closed) > self._limits.waiting_levels:
            self._drop_oldest_closed()
        parent, operation = node.parent, node.operation
        if parent is None:
            self.operations.pop(operation.id, None)
            return
        failed = status is Status.FAILED
        below = parent.children
        if below is not None:
            below.running -= 1
            if status is Status.CANCELLED and not node.declared:
                below.cancelled_weight += node.spec.weight * (node.reported_ratio or 0.0)
            if below.running == 0:
                below.partial_weight = (
                    below.cancelled_weight
                )  # exactly: what was added and taken away has left its rounding
            if status is not Status.COMPLETED or node.failed or node.skipped:
                lost, passed = _failed_and_skipped_units(node)
                below.failed += lost
                below.skipped += passed
            if below.stage is node:
                below.stage = None
            if node.declared:
                return
            if status is not Status.CANCELLED:
                below.done_weight += node.spec.weight
        kept = operation.failed if failed else operation.finished
        kept.append(node)
        if len(kept) > (self._limits.failed_levels if failed else self._limits.levels):
            self._evict(kept.popleft())

    def _drop_oldest_closed(self) -> None:
        """Forget the ended level that has waited longest for a tick: ticks are stuck."""
        del self.closed[next(iter(self.closed))]
        self.notes.append(
            ("waiting", "ended levels were left out of the journal and exports: no tick took them in time")
        )

    def _evict(self, node: Node) -> None:
        node.evicted = True
        if node.operation.resumed_units is not None:
            node.operation.resumed_units.pop(node.path, None)
        self.closed.pop(node, None)
        below = None if node.parent is None else node.parent.children
        if below is not None and below.nodes.get(node.path_segment) is node:
            del below.nodes[node.path_segment]
        if node.sent_sequence:
            self.evicted.append((node.operation.run, node.path))

    # --- figures -----------------------------------------------------------------------------------------------

    def update_figures(self, node: Node, clock: float, now: float) -> None:
        """Take the node's figures and count the units of work done since they were taken last."""
        failed, skipped = node.failed, node.skipped
        update_figures(node, clock, now)
        if node.counter is None and node.children is None and node.failures is None and node.skips is None:
            return  # there was nothing to be counted
        if node.clamped:
            self._warn_clamped(node)
        if node.failed > failed:
            self._count(node, "failed", node.failed - failed)
        if node.skipped > skipped:
            self._count(node, "skipped", node.skipped - skipped)
        # By their highest mark, since an outcome may be known before its unit is done.
        completed = node.current - node.failed - node.skipped
        if completed > node.counted_completed:
            self._count(node, "completed", completed - node.counted_completed)
            node.counted_completed = completed

    def update_if_needed(self, node: Node, clock: float, now: float) -> bool:
        """Take the node's figures if they have changed, and tell whether they have; those below it come before."""
        due = node.sequence == 0 or (node.status is Status.RUNNING and needs_update(node))
        if due:
            self.update_figures(node, clock, now)
        return due

    def _warn_clamped(self, node: Node) -> None:
        node.clamped = False
        if not node.warned:
            node.warned = True
            text = f"{node.spec.type} {node.name!r} counted beyond its total of {node.total}; raise it with set_total()"
            self.notes.append(("beyond_total", text))

    def _count(self, node: Node, outcome: str, units: Number) -> None:
        key = (node.operation.type, node.spec.type, outcome)
        self.items[key] = self.items.get(key, 0) + units


def _has_ended(what: str) -> OpenRejected:
    return OpenRejected("ended", f"{what} was not begun: the level above it has ended; begin it before that")


def _other_id(id_: str, taken: Container[str], what: str, rename: bool) -> str:
    """Return a free id made from one in use. Raises Refused unless ``rename``: the caller is to be told first."""
    if not rename:
        raise OpenRejected(
            "duplicate_id", f"{what} {id_!r} is running already; give each one its own id", can_rename=True
        )
    return next(other for n in itertools.count(2) if (other := f"{id_}~{n}") not in taken)


def _number(below: Children, type_: str) -> tuple[str, str]:
    """Return the next number as the id of a level of this type, past those that are some level's own id, and its segment."""
    stem = encode_segment(type_, "")
    while True:
        number = below.auto_ids[type_] = below.auto_ids.get(type_, 0) + 1
        id_ = str(number)
        part = stem + id_
        if part not in below.nodes:
            return id_, part


def _failed_and_skipped_units(node: Node) -> tuple[int, int]:
    """Return how many of the parent's units failed and were skipped in an ended level.

    A level counts one unit above, or as many as it weighs. Where its own units are the parent's (its weight is its total, as for a
    folder of files), those that failed in it failed above, too.
    """
    weight = math.ceil(node.spec.weight)
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
        if here.children is not None:
            children = list(
                here.children.nodes.values()
            )  # in one step of C, so that a begin in another thread does no harm
            children.sort(key=lambda child: child.order, reverse=True)
            waiting.extend(children)
