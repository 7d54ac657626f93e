"""What the live store answers: operations, events, logs, resources and batches of this process, as of the moment of asking.

Every answer takes in what was counted by then, so a caller reads its own writes. The lock is held for one node at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager

from otel_progress.batches import MAX_LISTED, summarise
from otel_progress.live.batches import BatchRegistry, BatchState
from otel_progress.live.buffers import EventBuffer, LogBuffer, PreviewBuffer
from otel_progress.live.estimation.tracker import EstimateTracker
from otel_progress.live.filters import (
    filter_events,
    filter_history,
    filter_logs,
    filter_previews,
    filter_samples,
)
from otel_progress.live.node import Node, Operation
from otel_progress.live.snapshots import take_snapshot
from otel_progress.live.tree import Tree, walk
from otel_progress.model import Eta, Instance, LevelSnapshot, Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import (
    BatchQuery,
    EventQuery,
    HistoryQuery,
    LogQuery,
    PreviewQuery,
    ResourceQuery,
)
from otel_progress.records import LogRecord, Preview, ResourceSample
from otel_progress.redaction import redact_snapshot


class LiveReader:
    """The reading half of the live store, which fills in what is declared here."""

    instance: Instance
    clock: Callable[[], float]
    now: Callable[[], float]
    estimates: EstimateTracker
    _lock: AbstractContextManager[object]
    _tree: Tree
    _ended: deque[Operation]
    _events: EventBuffer
    _logs: LogBuffer
    _previews: PreviewBuffer
    _batches: BatchRegistry
    _samples: deque[ResourceSample]

    def _close_orphans(self) -> None:
        raise NotImplementedError

    def _report_notes(self) -> None:
        raise NotImplementedError

    def snapshot(self, node: Node) -> LevelSnapshot:
        """Return a level as it is now."""
        self._refresh(node)
        self._estimate(node)
        with self._lock:
            snapshot = take_snapshot(node)
        return redact_snapshot(snapshot)

    def eta(self, node: Node) -> Eta | None:
        """Return the estimate of a level as it stands now; None while there is none, and once it has ended."""
        self._refresh(node)
        self._estimate(node)
        with self._lock:
            eta = take_snapshot(node).eta
            pauses, clock = node.operation.pauses, self.clock()
        if eta is None:
            return None
        return eta.at(clock if pauses is None or pauses.since is None else pauses.since)

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels, or None."""
        self._close_orphans()
        with self._lock:
            operation = self._find(operation_id)
        return None if operation is None else self._view(operation, estimate=True)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first."""
        self._close_orphans()
        with self._lock:
            operations = list(self._tree.operations.values())
        return [self._view(operation, levels=levels, estimate=True) for operation in reversed(operations)]

    def view(self, node: Node) -> OperationSnapshot:
        """Return the operation of a node with its levels."""
        return self._view(node.operation)

    def running(self, runs: Collection[str]) -> list[OperationSnapshot]:
        """Return those of the runs that are active and have been announced, with their levels."""
        with self._lock:
            found = [one for one in self._tree.operations.values() if one.run in runs and one.start_delivered]
        return [self._view(operation) for operation in found]

    def active_roots(self) -> list[Node]:
        """Return the nodes of all active operations."""
        with self._lock:
            return [
                operation.root for operation in self._tree.operations.values() if operation.root is not None
            ]

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations, the last one first, without their levels."""
        with self._lock:
            ended = [op for op in self._ended if query.operation_type in (None, op.type)]
        return filter_history((self._view(operation, levels=False) for operation in ended), query)

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return the newest matching events of the newest run, oldest first."""
        with self._lock:
            operation = self._find(operation_id)
            if operation is None:
                return []
            self._events.distribute()
            events = [*operation.items, *operation.failures]
        return filter_events(events, query)

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return the newest matching log records of the newest run, oldest first."""
        with self._lock:
            operation = self._find(operation_id)
            records = () if operation is None else self._logs.logs_of(operation)
        return filter_logs(records, query)

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return samples of this process that were made during the newest run, oldest first."""
        with self._lock:
            operation = self._find(operation_id)
            root = None if operation is None else operation.root
            samples = list(self._samples)
        return filter_samples(samples, root, query)

    def previews(self, operation_id: str, query: PreviewQuery = PreviewQuery()) -> Sequence[Preview]:
        """Return the newest matching previews of the newest run, oldest first."""
        with self._lock:
            operation = self._find(operation_id)
            found = () if operation is None else self._previews.previews_of(operation)
        return filter_previews(found, query)

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch as far as this process knows it, or None."""
        self._close_orphans()
        with self._lock:
            members = self._batches.get(batch_id)
        return None if members is None else self._summarise_batch(members)

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return the batches this process knows of, those that are not over first, then the newest first, then by id."""
        self._close_orphans()
        with self._lock:
            found = self._batches.newest(query.after)[: query.limit]
        return [self._summarise_batch(members) for members in found]

    def _summarise_batch(self, members: BatchState) -> BatchSnapshot:
        with self._lock:
            roots = list(reversed(members.active))
        for root in roots:  # whose figures are to be as of now
            self._refresh(root)
        with self._lock:  # the counts and who is still active, from one moment
            info, tally, roots = members.info, members.tally(), list(reversed(members.active))
            pictures = [take_snapshot(root) for root in roots[:MAX_LISTED]]
            failures, ratios = list(members.failed), sum(root.ratio or 0.0 for root in roots)
        active = [
            self._operation(root.operation, (redact_snapshot(one),))
            for root, one in zip(roots, pictures, strict=False)
        ]
        failed = [self._operation(None, (redact_snapshot(one),)) for one in failures]
        return summarise(info, tally, active, failed, self.now(), running=len(roots), running_ratio=ratios)

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield operations: first all active ones, then whatever changed, every ``interval`` seconds."""
        with self._lock:
            over = {ended.run for ended in self._ended}
        seen: dict[str, int] = {}
        pause = threading.Event()
        while True:
            with self._lock:
                operations = [
                    *self._tree.operations.values(),
                    *(one for one in self._ended if one.run not in over),
                ]
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
        self.estimates.refresh_opaque(self.clock())
        clock, now = self.clock(), self.now()
        for below in reversed(nodes):
            with self._lock:
                if self._tree.update_if_needed(below, clock, now) and below.status is Status.RUNNING:
                    self.estimates.observe(below, clock)
        if self._tree.notes:
            self._report_notes()
        return nodes

    def _estimate(self, node: Node) -> None:
        """Estimate a level now if that is due; the tick does it for all, and readers that come before it do not wait for that."""
        self.estimates.estimate(self.clock(), (node,))

    def _view(
        self, operation: Operation, *, levels: bool = True, estimate: bool = False
    ) -> OperationSnapshot:
        assert operation.root is not None
        nodes = self._refresh(operation.root)
        if estimate:
            self._estimate(operation.root)
        pictures = []
        for node in nodes if levels else nodes[:1]:
            with self._lock:
                snapshot = take_snapshot(node)
            pictures.append(redact_snapshot(snapshot))
        return self._operation(operation, pictures)

    def _operation(self, operation: Operation | None, pictures: Sequence[LevelSnapshot]) -> OperationSnapshot:
        """Return an operation from the pictures of its levels, the root first; None stands for one that is no longer kept."""
        return OperationSnapshot(
            pictures[0],
            pictures[1:],
            self.now(),
            self.clock(),
            self.instance,
            resources=None if operation is None else operation.resources,
            cancel_requested_at=None if operation is None else operation.cancel_requested_at,
        )
