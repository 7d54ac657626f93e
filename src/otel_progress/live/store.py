"""The live store: every level that lives in this process, complete whatever the sampler says, readable at any moment.

Begin and end pass through here under one short lock; the ticker collects what changed; readers get snapshots made at the
time of asking, so a caller reads its own writes. Ended levels fold into their parent's counts, and only the most recent few
hundred of an operation are kept, so ten million levels take no more room than a thousand.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from otel_progress.batches import MAX_LISTED, summarise
from otel_progress.live import finding
from otel_progress.live.batches import Batches, Members
from otel_progress.live.inbox import Inbox
from otel_progress.live.logbook import Logbook
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.live.observe import changed, picture
from otel_progress.live.tree import Limits, Refused, Tree, walk
from otel_progress.live.usage import Usage
from otel_progress.model import (
    BatchSnapshot,
    Event,
    Failure,
    Instance,
    MetadataValue,
    OperationSnapshot,
    Outcome,
    Snapshot,
    Status,
)
from otel_progress.observations import LogRecord, ResourceSample, ResourceUse
from otel_progress.protocols import Batch
from otel_progress.redaction import shown
from otel_progress.text import cut

MAX_SAMPLES: Final = 3_600
"""Looks at the use of resources that are kept: an hour of them, at one a second."""
REASON_COLLECTED: Final = "its handle was garbage-collected before it ended"


class LiveStore:
    """All live levels of this process: a Reader, and the source of every batch.

    ``clock`` is monotonic, ``now`` wall time, both in seconds; ``ids`` makes unique hexadecimal ids. The hooks are all called without
    the lock: ``on_reject(reason, text)`` is told of what had to be refused and may raise, ``on_note(reason, text)`` of what was found
    wrong later; ``on_begin(node)`` hears of operations, ``on_end(node)`` of levels, ``on_advance(node)`` of each one that is in a batch,
    ``on_wake()`` that there is something to collect, ``on_event_dropped()`` of an event let go.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        ids: Callable[[], str] = lambda: secrets.token_hex(8),
        limits: Limits | None = None,
        stall_after: float = 60.0,
    ) -> None:
        self.clock = clock
        self.now = now
        self.limits = limits or Limits()
        self.on_reject: Callable[[str, str], None] = _ignore_rejection
        self.on_note: Callable[[str, str], None] = _ignore_rejection
        self.on_wake: Callable[[], None] = _ignore
        self.on_begin: Callable[[Node], None] = _ignore_node
        self.on_end: Callable[[Node], None] = _ignore_node
        self.on_advance: Callable[[Node], None] = _ignore_node
        self.on_event_dropped: Callable[[], None] = _ignore
        self._ids = ids
        self._stall_after = stall_after
        self.restart(instance)

    def restart(self, instance: Instance) -> None:
        """Forget everything and go on as another instance: what a forked child does. New lock, no inherited level."""
        inherited: Tree | None = getattr(self, "_tree", None)
        for node in () if inherited is None else list(inherited.active):
            node.status = Status.CANCELLED  # here, for the handles that were inherited; the parent process goes on with it
        self.instance = instance
        self._lock = threading.RLock()
        self._tree = Tree(instance.id, self.limits, self.clock, self.now, self._ids, self._late)
        self._ended: deque[Operation] = deque()
        self._inbox = Inbox(self.limits)
        self._logbook = Logbook()
        self._batches = Batches(self.now)
        self._samples: deque[ResourceSample] = deque(maxlen=MAX_SAMPLES)
        self._unsent_sample: ResourceSample | None = None
        self._resend = False

    def _late(self) -> None:
        self.on_reject("ended", "a unit was counted on a level that has ended; count before the end")

    # --- writing -----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing is active and nothing waits to be collected."""
        return (
            not self._tree.active
            and not self._tree.closed
            and not self._inbox
            and not self._logbook
            and not self._batches.waiting
        )

    def open(self, parent: Node | None, spec: Spec) -> Node | None:
        """Begin a level under ``parent``, or an operation without one; None when that was refused."""
        try:
            with self._lock:
                node = self._open(parent, spec)
        except Refused as refused:
            self.on_reject(refused.reason, refused.text)  # without the lock: it logs, and may raise
            if not refused.again:
                return None
            with self._lock:
                node = self._open(parent, spec, rename=True)
        if parent is None:
            self.on_begin(node)
        self.on_wake()
        return node

    def _open(self, parent: Node | None, spec: Spec, *, rename: bool = False) -> Node:
        node = self._tree.open(parent, spec, rename=rename)
        if parent is None and spec.batch is not None:
            self._batches.join(spec.batch, node)
        return node

    def open_stage(self, parent: Node, spec: Spec) -> Node | None:
        """Begin a stage of ``parent``; None when that was refused."""
        ended: list[Node] = []
        try:
            with self._lock:
                node = self._tree.open_stage(parent, spec, ended)
        except Refused as refused:
            self.on_reject(refused.reason, refused.text)
            return None
        for each in ended:
            self.on_end(each)
        self.on_wake()
        return node

    def close(self, node: Node, status: Status, *, error: Failure | None = None, message: str | None = None) -> bool:
        """End a level and whatever still runs below it; False when it had ended before."""
        ended: list[Node] = []
        with self._lock:
            if node not in self._tree.active:
                return False
            if error is not None:
                node.error = error
            if message is not None:
                node.message = message
            self._tree.close(node, status, ended)
            if node.parent is None:
                self._keep_ended(node.operation)
                if node.spec.batch is not None:
                    self._batches.leave(node.spec.batch, node)
        for each in ended:
            self.on_end(each)
        if self._tree.notes:
            self._tell_notes()
        return True

    def _tell_notes(self) -> None:
        with self._lock:
            notes, self._tree.notes = self._tree.notes, []
        for reason, text in notes:
            self.on_note(reason, text)

    def record(
        self,
        node: Node,
        name: str,
        outcome: Outcome,
        error: Failure | None,
        metadata: Mapping[str, MetadataValue],
    ) -> None:
        """Remember one unit of work; let it go, counted, when too many wait for the next tick. Takes no lock."""
        if not self._inbox.record(node, name, outcome, error, metadata, self.now()):
            self.on_event_dropped()

    def log(self, node: Node, record: LogRecord) -> None:
        """Remember a log record of a level; let it go, counted, when too many wait for the next tick. Takes no lock."""
        if not self._logbook.add(node, record):
            self.on_event_dropped()
        self.on_wake()

    def sample(self, sample: ResourceSample) -> None:
        """Take a look at what this process uses: part of the use of every operation that is active now."""
        with self._lock:
            self._samples.append(sample)
            self._unsent_sample = sample
            for operation in self._tree.operations.values():
                if operation.usage is None:
                    operation.usage = Usage()
                operation.resources = operation.usage.add(sample)

    def declare_batch(self, id_: str | None, name: str, type_: str, total: int | None) -> str:
        """Declare a batch, or once more one that is known; return its id, which is made when none is given."""
        with self._lock:
            if id_ is None:
                id_ = f"{type_}-{self._ids()[:8]}"
            self._batches.declare(id_, name, type_, total)
        self.on_wake()
        return id_

    def set_batch_total(self, batch_id: str, total: int) -> None:
        """Say how many operations a batch has in all."""
        with self._lock:
            self._batches.set_total(batch_id, total)
        self.on_wake()

    def close_batch(self, batch_id: str) -> None:
        """Say that no more operations of a batch come."""
        with self._lock:
            self._batches.close(batch_id)
        self.on_wake()

    def request_cancel(self, operation_id: str, reason: str, *, run: str | None = None) -> bool:
        """Let the handles of the active run of this id know that it is asked to stop; False when there is none.

        With ``run``, only that run of it is meant. The first request stays.
        """
        with self._lock:
            operation = self._tree.operations.get(operation_id)
            if operation is None or (run is not None and operation.run != run):
                return False
            if operation.cancel_requested_at is None:
                operation.cancel_reason = cut(reason)  # first: whoever sees the moment finds the reason
                operation.cancel_requested_at = self.now()
                if operation.root is not None:
                    operation.root.dirty = True
        self.on_wake()
        return True

    def delete(self, operation_id: str) -> int:
        """Forget all ended runs of this id with their events and logs; return how many there were."""
        with self._lock:
            deleted = [operation for operation in self._ended if operation.id == operation_id]
            self._ended = deque(operation for operation in self._ended if operation.id != operation_id)
            for operation in deleted:
                self._logbook.forget(operation)
        return len(deleted)

    def _keep_ended(self, operation: Operation) -> None:
        self._ended.append(operation)
        kept = 0
        for earlier in reversed(self._ended):
            kept += len(earlier.finished) + len(earlier.failed)
            if kept > self.limits.history_levels and earlier.root is not None and earlier is not operation:
                earlier.root.below = None
                earlier.finished.clear()
                earlier.failed.clear()
        if len(self._ended) > self.limits.history:
            self._logbook.forget(self._ended.popleft())

    # --- collecting: once a tick -------------------------------------------------------------------------------

    def collect(self) -> Batch:
        """Return what changed since the last time. Holds the lock for one node at a time, so no caller waits long."""
        self._close_orphans()
        clock, now = self.clock(), self.now()
        with self._lock:
            active = list(self._tree.active)
        # A reader may have measured a node since the last batch; then it has not changed since, and is to be told all the same.
        due = active if self._resend else [node for node in active if node.sequence != node.sent or changed(node)]
        fresh = self._observe_changed(due, clock, now)
        with self._lock:
            events = self._inbox.take()
            ended = list(self._tree.closed)
            self._tree.closed.clear()
            evicted, self._tree.evicted = self._tree.evicted, []
            items, self._tree.items = self._tree.items, {}
            for node in ended:
                if node.sequence == 0:
                    self._tree.measure(node, clock, now)
            nodes = sorted(dict.fromkeys((*fresh, *ended)), key=lambda node: node.depth)
            logs = self._logbook.take()
            sample, self._unsent_sample = self._unsent_sample, None
            resources = {} if sample is None else self._resources()
            batches = self._batches.take(everything=self._resend)
            self._resend = False
        snapshots = []
        for node in nodes:
            with self._lock:
                if _gone(node):
                    continue
                node.sent = node.sequence
                snapshot = picture(node)
            snapshots.append(shown(snapshot))
            self.on_advance(node)
        if self._tree.notes:
            self._tell_notes()
        return Batch(self.instance, now, clock, snapshots, events, evicted, items, logs, sample, resources, batches)

    def _resources(self) -> dict[str, ResourceUse]:
        return {one.run: one.resources for one in self._tree.operations.values() if one.resources is not None}

    def resend(self) -> None:
        """Make the next batch carry every active level and every batch again, because a sink missed one."""
        self._resend = True

    def _observe_changed(self, nodes: list[Node], clock: float, now: float) -> dict[Node, None]:
        """Make snapshots of the nodes and of those above them, the deepest first."""
        by_depth: dict[int, dict[Node, None]] = {}
        for node in nodes:
            by_depth.setdefault(node.depth, {})[node] = None
        fresh: dict[Node, None] = {}
        for depth in range(max(by_depth, default=-1), -1, -1):
            for node in by_depth.get(depth, {}):
                with self._lock:
                    if node.status is not Status.RUNNING:
                        continue
                    self._tree.measure(node, clock, now)
                fresh[node] = None
                if node.parent is not None:
                    by_depth.setdefault(depth - 1, {})[node.parent] = None
        return fresh

    def _close_orphans(self) -> None:
        with self._lock:
            operations = [operation for operation in self._tree.operations.values() if operation.orphaned]
            for operation in operations:
                operation.orphaned = False
            orphans = [node for node in self._tree.active if node.orphaned] if operations else []
        for node in orphans:
            self.close(node, Status.CANCELLED, message=REASON_COLLECTED)

    # --- reading -----------------------------------------------------------------------------------------------

    def snapshot(self, node: Node) -> Snapshot:
        """Return a level as it is now."""
        self._refresh(node)
        with self._lock:
            snapshot = picture(node)
        return shown(snapshot)

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels, or None."""
        self._close_orphans()
        with self._lock:
            operation = self._find(operation_id)
        return None if operation is None else self._view(operation)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first."""
        self._close_orphans()
        with self._lock:
            operations = list(self._tree.operations.values())
        return [self._view(operation, levels=levels) for operation in reversed(operations)]

    def view(self, node: Node) -> OperationSnapshot:
        """Return the operation of a node with its levels."""
        return self._view(node.operation)

    def running(self, runs: Collection[str]) -> list[OperationSnapshot]:
        """Return those of the runs that are active and have been announced, with their levels."""
        with self._lock:
            found = [one for one in self._tree.operations.values() if one.run in runs and one.announced]
        return [self._view(operation) for operation in found]

    def active_roots(self) -> list[Node]:
        """Return the nodes of all active operations."""
        with self._lock:
            return [operation.root for operation in self._tree.operations.values() if operation.root is not None]

    def history(
        self,
        operation_type: str | None = None,
        limit: int = 100,
        *,
        before: tuple[float, str] | None = None,
        since: float | None = None,
    ) -> Sequence[OperationSnapshot]:
        """Return ended operations, the last one first, without their levels."""
        with self._lock:
            ended = [op for op in self._ended if operation_type is None or op.type == operation_type]
        return finding.ended((self._view(operation, levels=False) for operation in ended), before, since, limit)

    def events(
        self,
        operation_id: str,
        *,
        level: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
        limit: int = 1000,
    ) -> Sequence[Event]:
        """Return the newest ``limit`` events of the newest run, oldest first; ``level`` takes in what is below it."""
        with self._lock:
            operation = self._find(operation_id)
            if operation is None:
                return []
            self._inbox.sort()
            events = [*operation.items, *operation.failures]
        return finding.events(events, level, outcome, since, limit)

    def logs(
        self,
        operation_id: str,
        *,
        path: str | None = None,
        severity: int = 0,
        since: float | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> Sequence[LogRecord]:
        """Return kept log records of the newest run, oldest first; ``path`` takes in what is below it."""
        with self._lock:
            operation = self._find(operation_id)
            records = () if operation is None else self._logbook.of(operation)
        return finding.logs(records, path, severity, since, after, limit)

    def resources(self, operation_id: str, *, since: float | None = None, limit: int = 600) -> Sequence[ResourceSample]:
        """Return samples of this process taken while the newest run lasted, oldest first."""
        with self._lock:
            operation = self._find(operation_id)
            root = None if operation is None else operation.root
            samples = list(self._samples)
        return finding.samples(samples, root, since, limit)

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch as far as this process knows it, or None."""
        self._close_orphans()
        with self._lock:
            members = self._batches.get(batch_id)
        return None if members is None else self._summary(members)

    def batches(self, limit: int = 100) -> Sequence[BatchSnapshot]:
        """Return the batches this process knows of, those that are not over first, then the newest first."""
        self._close_orphans()
        with self._lock:
            found = self._batches.newest()[: max(0, limit)]
        return [self._summary(members) for members in found]

    def _summary(self, members: Members) -> BatchSnapshot:
        with self._lock:
            roots = list(reversed(members.active))
        for root in roots:  # whose figures are to be as of now
            self._refresh(root)
        with self._lock:  # the counts and who is still active, from one moment
            info, tally, roots = members.info, members.tally(), list(reversed(members.active))
            pictures = [picture(root) for root in roots[:MAX_LISTED]]
            failures, ratios = list(members.failed), sum(root.ratio or 0.0 for root in roots)
        active = [self._operation(root.operation, (shown(one),)) for root, one in zip(roots, pictures, strict=False)]
        failed = [self._operation(None, (shown(one),)) for one in failures]
        return summarise(info, tally, active, failed, self.now(), running=len(roots), running_ratio=ratios)

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield operations: first all active ones, then whatever changed, every ``interval`` seconds."""
        with self._lock:
            over = {ended.run for ended in self._ended}
        seen: dict[str, int] = {}
        pause = threading.Event()
        while True:
            with self._lock:
                operations = [*self._tree.operations.values(), *(one for one in self._ended if one.run not in over)]
                over = {ended.run for ended in self._ended}
            views = [self._view(operation, levels=levels) for operation in operations]
            yield [view for view in views if seen.get(view.run) != view.root.sequence]
            seen = {view.run: view.root.sequence for view in views}
            pause.wait(interval)

    def _find(self, operation_id: str) -> Operation | None:
        operation = self._tree.operations.get(operation_id)
        if operation is not None:
            return operation
        return next((ended for ended in reversed(self._ended) if ended.id == operation_id), None)

    def _refresh(self, node: Node) -> list[Node]:
        """Take the figures of all that changed in and below a node, deepest first; return its nodes, parents first.

        The lock is held for one node at a time, so that a caller who begins a level never waits for a reader of a large tree.
        """
        nodes = list(walk(node))
        clock, now = self.clock(), self.now()
        for below in reversed(nodes):
            with self._lock:
                self._tree.refresh(below, clock, now)
        if self._tree.notes:
            self._tell_notes()
        return nodes

    def _view(self, operation: Operation, *, levels: bool = True) -> OperationSnapshot:
        assert operation.root is not None
        nodes = self._refresh(operation.root)
        pictures = []
        for node in nodes if levels else nodes[:1]:
            with self._lock:
                snapshot = picture(node)
            pictures.append(shown(snapshot))
        return self._operation(operation, pictures)

    def _operation(self, operation: Operation | None, pictures: Sequence[Snapshot]) -> OperationSnapshot:
        """Return an operation from the pictures of its levels, the root first; None stands for one that is no longer kept."""
        return OperationSnapshot(
            pictures[0],
            pictures[1:],
            self.now(),
            self.clock(),
            self.instance,
            stall_after=self._stall_after,
            resources=None if operation is None else operation.resources,
            cancel_requested_at=None if operation is None else operation.cancel_requested_at,
        )


def _gone(node: Node) -> bool:
    here: Node | None = node
    while here is not None:
        if here.gone:
            return True
        here = here.parent
    return False


def _ignore() -> None:
    return None


def _ignore_node(node: Node) -> None:
    del node


def _ignore_rejection(reason: str, text: str) -> None:
    del reason, text
