"""Reader of the live store.

Each answer includes everything counted before the call, so a caller reads its own writes. The lock
is held for one node at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence

from otel_progress.batches import MAX_LISTED, summarise
from otel_progress.live.batches import BatchState
from otel_progress.live.figures import find_only_loop
from otel_progress.live.filters import (
    filter_events,
    filter_history,
    filter_logs,
    filter_previews,
    filter_samples,
)
from otel_progress.live.node import Node, Operation
from otel_progress.live.snapshots import build_snapshot, take_snapshot_locked
from otel_progress.live.state import StoreState
from otel_progress.live.tree import walk_levels
from otel_progress.model import Eta, LevelSnapshot, Status
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
    """Reader of the state of a live store."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    # --- single levels ---------------------------------------------------------------------------

    def get_level(self, node: Node) -> LevelSnapshot:
        """Return the current snapshot of a level."""
        self._state.end_orphans()
        self._update_figures(node)
        self._estimate(node)
        return redact_snapshot(self._take_snapshot(node))

    def get_eta(self, node: Node) -> Eta | None:
        """Return the current estimate of a running level, or None."""
        self._update_figures(node)
        self._estimate(node)
        eta = self._take_snapshot(node).eta
        with self._state.lock:
            pauses, clock = node.operation.pauses, self._state.clock()
        if eta is None:
            return None
        return eta.at(clock if pauses is None or pauses.since is None else pauses.since)

    def get_operation(self, node: Node) -> OperationSnapshot:
        """Return the operation of a node with its levels."""
        return self._take_operation(node.operation)

    def get_running(self, runs: Collection[str]) -> list[OperationSnapshot]:
        """Return the active operations among ``runs`` whose start was reported."""
        with self._state.lock:
            operations = [
                operation
                for operation in self._state.tree.operations.values()
                if operation.run in runs and operation.start_delivered
            ]
        return [self._take_operation(operation) for operation in operations]

    def get_active_roots(self) -> list[Node]:
        """Return the nodes of all active operations."""
        with self._state.lock:
            operations = self._state.tree.operations.values()
            return [operation.root for operation in operations if operation.root is not None]

    # --- queries ---------------------------------------------------------------------------------

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels, or None."""
        self._state.end_orphans()
        with self._state.lock:
            operation = self._state.find_operation_locked(operation_id)
        return None if operation is None else self._take_operation(operation, estimate=True)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all active operations, newest first."""
        self._state.end_orphans()
        with self._state.lock:
            operations = list(self._state.tree.operations.values())
        return [
            self._take_operation(operation, levels=levels, estimate=True)
            for operation in reversed(operations)
        ]

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last ended one first."""
        self._state.end_orphans()
        with self._state.lock:
            ended = [op for op in self._state.ended if query.operation_type in (None, op.type)]
        return filter_history((self._take_operation(operation, levels=False) for operation in ended), query)

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return the newest matching events of the newest run, oldest first."""
        is_interrupting = self._state.is_interrupting()
        with self._state.lock:
            operation = self._state.find_operation_locked(operation_id)
            if operation is None:
                return []
            events = self._state.events.list_events_locked(operation, is_complete=not is_interrupting)
        return filter_events(events, query)

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return the newest matching log records of the newest run, oldest first."""
        is_complete = not self._state.is_interrupting()
        with self._state.lock:
            operation = self._state.find_operation_locked(operation_id)
            logs = self._state.logs
            records = () if operation is None else logs.list_logs_locked(operation, is_complete=is_complete)
        return filter_logs(records, query)

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return the resource samples of this process during the newest run, oldest first."""
        with self._state.lock:
            operation = self._state.find_operation_locked(operation_id)
            root = None if operation is None else operation.root
            samples = list(self._state.samples)
        return filter_samples(samples, root, query)

    def previews(self, operation_id: str, query: PreviewQuery = PreviewQuery()) -> Sequence[Preview]:
        """Return the newest matching previews of the newest run, oldest first."""
        with self._state.lock:
            operation = self._state.find_operation_locked(operation_id)
            found = () if operation is None else self._state.previews.list_previews_locked(operation)
        return filter_previews(found, query)

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch with the operations of this process, or None."""
        self._state.end_orphans()
        with self._state.lock:
            batch = self._state.batches.get_batch_locked(batch_id)
        return None if batch is None else self._summarise_batch(batch)

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return the batches of this process: unfinished ones first, then the newest."""
        self._state.end_orphans()
        with self._state.lock:
            batches = self._state.batches.list_newest_locked(query.after)[: query.limit]
        return [self._summarise_batch(batch) for batch in batches]

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield all active operations, then the changed ones every ``interval`` seconds."""
        state = self._state
        with state.lock:
            ended_runs = {ended.run for ended in state.ended}
        sequences: dict[str, int] = {}
        pause = threading.Event()
        while True:
            with state.lock:
                just_ended = [ended for ended in state.ended if ended.run not in ended_runs]
                operations = [*state.tree.operations.values(), *just_ended]
                ended_runs = {ended.run for ended in state.ended}
            snapshots = [self._take_operation(operation, levels=levels) for operation in operations]
            yield [each for each in snapshots if sequences.get(each.run) != each.root.sequence]
            sequences = {each.run: each.root.sequence for each in snapshots}
            pause.wait(interval)

    # --- snapshots -------------------------------------------------------------------------------

    def _summarise_batch(self, batch: BatchState) -> BatchSnapshot:
        with self._state.lock:
            roots = list(reversed(batch.active))
        for root in roots:
            self._update_figures(root)
        # Why under one lock: the counts and the active operations must be of the same moment.
        with self._state.lock:
            info, tally, roots = batch.info, batch.tally(), list(reversed(batch.active))
            snapshots = [self._take_snapshot(root) for root in roots[:MAX_LISTED]]
            failures, ratios = list(batch.failed), sum(root.ratio or 0.0 for root in roots)
        active = [
            self._build_operation(root.operation, (redact_snapshot(snapshot),))
            for root, snapshot in zip(roots, snapshots, strict=False)
        ]
        failed = [self._build_operation(None, (redact_snapshot(snapshot),)) for snapshot in failures]
        now = self._state.now()
        return summarise(info, tally, active, failed, now, running=len(roots), running_ratio=ratios)

    def _update_figures(self, node: Node) -> list[Node]:
        """Update the figures of all changed levels in and below a node.

        Return its nodes, parents first.

        The lock is held for one node at a time, so a caller that starts a level never waits for a
        reader of a large tree.
        """
        state, nodes = self._state, list(walk_levels(node))
        if state.is_interrupting():
            return nodes
        state.estimates.refresh_opaque(state.clock())
        now, clock = state.now(), state.clock()
        for below in reversed(nodes):
            with state.lock:
                if state.tree.update_if_needed_locked(below, clock, now) and below.status is Status.RUNNING:
                    state.estimates.observe_locked(below)
        if state.tree.late_rejections:
            state.report_late_rejections()
        return nodes

    def _estimate(self, node: Node) -> None:
        """Estimate a level now if that is due, without waiting for the next tick."""
        if self._state.is_interrupting():
            return
        with self._state.lock:
            loop = find_only_loop(node)
        self._state.estimates.estimate(self._state.clock(), (node,) if loop is None else (node, loop))

    def _take_operation(
        self, operation: Operation, *, levels: bool = True, estimate: bool = False
    ) -> OperationSnapshot:
        assert operation.root is not None
        nodes = self._update_figures(operation.root)
        if estimate:
            self._estimate(operation.root)
        # Why again: a level that ended after the first walk is in the counts of its parent. Without
        # it in the list, readers would count it as evicted.
        shown = list(walk_levels(operation.root)) if levels else nodes[:1]
        return self._build_operation(
            operation, [redact_snapshot(self._take_snapshot(node)) for node in shown]
        )

    def _take_snapshot(self, node: Node) -> LevelSnapshot:
        """Return the snapshot of the last update.

        A call that interrupts an update stores no snapshot, because it may mix old and new values.
        """
        state = self._state
        if state.is_interrupting():
            return build_snapshot(node)
        with state.lock:
            if node.sequence == 0:
                # It started after the first walk.
                state.tree.update_level_locked(node, state.clock(), state.now())
            return take_snapshot_locked(node)

    def _build_operation(
        self, operation: Operation | None, snapshots: Sequence[LevelSnapshot]
    ) -> OperationSnapshot:
        """Return an operation with these levels, the root first.

        ``operation`` is None when it was evicted.
        """
        return OperationSnapshot(
            snapshots[0],
            snapshots[1:],
            self._state.now(),
            self._state.clock(),
            self._state.instance,
            resources=None if operation is None else operation.resources,
            cancel_requested_at=None if operation is None else operation.cancel_requested_at,
        )
