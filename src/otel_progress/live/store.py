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
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from otel_progress.live.batches import BatchRegistry
from otel_progress.live.buffers import EventBuffer, LogBuffer, PreviewBuffer
from otel_progress.live.estimation.tracker import EstimateTracker
from otel_progress.live.estimation.trajectories import TrajectoryCache
from otel_progress.live.interruptions import Interruptions
from otel_progress.live.listener import NullListener, StoreListener
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.live.reader import LiveReader
from otel_progress.live.resource_usage import UsageAccumulator
from otel_progress.live.snapshots import needs_update, take_snapshot
from otel_progress.live.tree import Limits, OpenRejected, Tree
from otel_progress.model import Failure, Instance, MetadataValue, Outcome, Status
from otel_progress.protocols import ChangeSet
from otel_progress.records import LogRecord, Preview, ResourceSample, ResourceUse
from otel_progress.redaction import redact_snapshot
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.text import truncate

MAX_SAMPLES: Final = 3_600
"""Looks at the use of resources that are kept: an hour of them, at one a second."""


REASON_COLLECTED: Final = "its handle was garbage-collected before it ended"


class LiveStore(LiveReader):
    """All live levels of this process: a Reader, and the source of every batch.

    ``clock`` is monotonic, ``now`` wall time, both in seconds; ``ids`` makes unique hexadecimal ids. ``listener`` receives
    notifications, always without the lock. ``has_trajectory_store`` says that trajectories of past runs can be loaded.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        ids: Callable[[], str] = lambda: secrets.token_hex(8),
        limits: Limits | None = None,
        stall_after: float = DEFAULT_STALL_AFTER_S,
        has_trajectory_store: bool = False,
        listener: StoreListener | None = None,
    ) -> None:
        self.clock = clock
        self.now = now
        self.limits = limits or Limits()
        self._listener: StoreListener = listener or NullListener()
        self.notify_change: Callable[[], None] = self._listener.on_change
        """The listener's method, bound once because every start of a level calls it."""
        self._ids = ids
        self._stall_after = stall_after
        self._has_trajectory_store = has_trajectory_store
        self.restart(instance)

    def restart(self, instance: Instance) -> None:
        """Forget everything and go on as another instance: what a forked child does. New lock, no inherited level."""
        inherited: Tree | None = getattr(self, "_tree", None)
        for node in () if inherited is None else list(inherited.active):
            node.status = (
                Status.CANCELLED
            )  # here, for the handles that were inherited; the parent process goes on with it
        self.instance = instance
        self._lock = threading.RLock()
        self._tree = Tree(
            instance.id, self.limits, self.clock, self.now, self._ids, self._on_late_count, self._stall_after
        )
        self.estimates = EstimateTracker(
            self._lock, TrajectoryCache(has_backend=self._has_trajectory_store), self.clock
        )
        self.interruptions = Interruptions(self._lock, self._tree, self.estimates, self.clock, self.now)
        self._ended: deque[Operation] = deque()
        self._events = EventBuffer(self.limits)
        self._logs = LogBuffer()
        self._previews = PreviewBuffer()
        self._batches = BatchRegistry(self.now)
        self._samples: deque[ResourceSample] = deque(maxlen=MAX_SAMPLES)
        self._unsent_sample: ResourceSample | None = None
        self._resend = False

    def _on_late_count(self) -> None:
        self._listener.on_rejection(
            "ended", "a unit was counted on a level that has ended; count before the end"
        )

    # --- writing -----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing is active and nothing waits to be collected."""
        return (
            not self._tree.active
            and not self._tree.closed
            and not self._events
            and not self._logs
            and not self._previews
            and not self._batches.waiting
        )

    def open(self, parent: Node | None, spec: Spec) -> Node | None:
        """Begin a level under ``parent``, or an operation without one; None when that was refused."""
        try:
            with self._lock:
                node = self._open(parent, spec)
        except OpenRejected as refused:
            self._listener.on_rejection(
                refused.reason, refused.text
            )  # without the lock: it logs, and may raise
            if not refused.can_rename:
                return None
            with self._lock:
                node = self._open(parent, spec, rename=True)
        try:
            if parent is None:
                self._listener.on_operation_started(node)
            self.notify_change()
        except BaseException as error:  # an interrupt, before anybody holds what began here
            self.close(node, Status.CANCELLED, message=type(error).__name__)
            raise
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
        except OpenRejected as refused:
            self._listener.on_rejection(refused.reason, refused.text)
            return None
        for each in ended:
            self._listener.on_level_ended(each)
        self.notify_change()
        return node

    def close(
        self, node: Node, status: Status, *, error: Failure | None = None, message: str | None = None
    ) -> bool:
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
            self._listener.on_level_ended(each)
        if self._tree.notes:
            self._report_notes()
        return True

    def _report_notes(self) -> None:
        with self._lock:
            notes, self._tree.notes = self._tree.notes, []
        for reason, text in notes:
            self._listener.on_late_rejection(reason, text)

    def add_item(
        self,
        node: Node,
        name: str,
        outcome: Outcome,
        error: Failure | None,
        metadata: Mapping[str, MetadataValue],
    ) -> None:
        """Remember one unit of work; let it go, counted, when too many wait for the next tick. Takes no lock."""
        if not self._events.record(node, name, outcome, error, metadata, self.now()):
            self._listener.on_event_dropped()

    def add_log(self, node: Node, record: LogRecord) -> None:
        """Remember a log record of a level; let it go, counted, when too many wait for the next tick. Takes no lock."""
        if not self._logs.add(node, record):
            self._listener.on_event_dropped()
        self.notify_change()

    def add_preview(self, node: Node, preview: Preview, gone: Sequence[Preview] = ()) -> None:
        """Remember a preview that was stored, and that others (without their location) made room for it."""
        operation = node.operation
        with self._lock:
            self._previews.add(operation, preview, gone)
            root = operation.root
            if root is not None:
                root.dirty = True
                if root.status.finished:  # it is measured no more: who watches still hears of the number
                    operation.sequence = root.sequence = operation.sequence + 1
                    root.snapshot = None
        self.notify_change()

    def add_sample(self, sample: ResourceSample) -> None:
        """Take a look at what this process uses: part of the use of every operation that is active now."""
        with self._lock:
            self._samples.append(sample)
            self._unsent_sample = sample
            for operation in self._tree.operations.values():
                if operation.usage is None:
                    operation.usage = UsageAccumulator()
                operation.resources = operation.usage.add(sample)

    def declare_batch(self, id_: str | None, name: str, type_: str, total: int | None) -> str:
        """Declare a batch, or once more one that is known; return its id, which is made when none is given."""
        with self._lock:
            if id_ is None:
                id_ = f"{type_}-{self._ids()[:8]}"
            self._batches.declare(id_, name, type_, total)
        self.notify_change()
        return id_

    def set_batch_total(self, batch_id: str, total: int) -> None:
        """Say how many operations a batch has in all."""
        with self._lock:
            self._batches.set_total(batch_id, total)
        self.notify_change()

    def close_batch(self, batch_id: str) -> None:
        """Say that no more operations of a batch come."""
        with self._lock:
            self._batches.close(batch_id)
        self.notify_change()

    def request_cancel(self, operation_id: str, reason: str, *, run: str | None = None) -> bool:
        """Let the handles of the active run of this id know that it is asked to stop; False when there is none.

        With ``run``, only that run of it is meant. The first request stays.
        """
        with self._lock:
            operation = self._tree.operations.get(operation_id)
            if operation is None or (run is not None and operation.run != run):
                return False
            if operation.cancel_requested_at is None:
                operation.cancel_reason = truncate(reason)  # first: whoever sees the moment finds the reason
                operation.cancel_requested_at = self.now()
                if operation.root is not None:
                    operation.root.dirty = True
        self.notify_change()
        return True

    def delete(self, operation_id: str) -> int:
        """Forget all ended runs of this id with their events and logs; return how many there were."""
        with self._lock:
            deleted = [operation for operation in self._ended if operation.id == operation_id]
            self._ended = deque(operation for operation in self._ended if operation.id != operation_id)
            for operation in deleted:
                self._logs.drop_operation(operation)
            locations = self._previews.drop_operations(deleted)
        self._listener.on_previews_deleted(locations)
        return len(deleted)

    def _keep_ended(self, operation: Operation) -> None:
        self._ended.append(operation)
        kept = 0
        for earlier in reversed(self._ended):
            kept += len(earlier.finished) + len(earlier.failed)
            if kept > self.limits.history_levels and earlier.root is not None and earlier is not operation:
                earlier.root.children = None
                earlier.finished.clear()
                earlier.failed.clear()
        if len(self._ended) > self.limits.history:
            forgotten = self._ended.popleft()
            self._logs.drop_operation(forgotten)
            self._previews.drop_operations([forgotten])

    # --- collecting: once a tick -------------------------------------------------------------------------------

    def collect(self) -> ChangeSet:
        """Return what changed since the last time. Holds the lock for one node at a time, so no caller waits long."""
        self._close_orphans()
        clock, now = self.clock(), self.now()
        self.estimates.refresh_opaque(clock)
        with self._lock:
            active = list(self._tree.active)
        # A reader may have measured a node since the last batch; then it has not changed since, and is to be told all the same.
        due = (
            active
            if self._resend
            else [node for node in active if node.sequence != node.sent_sequence or needs_update(node)]
        )
        fresh = self._observe_changed(due, clock, now)
        with self._lock:
            events = self._events.drain()
            ended = list(self._tree.closed)
            self._tree.closed.clear()
            evicted, self._tree.evicted = self._tree.evicted, []
            items, self._tree.items = self._tree.items, {}
            for node in ended:
                if node.sequence == 0:
                    self._tree.update_figures(node, clock, now)
                if node.status.finished:
                    self.estimates.finish(node)
            lessons = self.estimates.trajectories.drain()
            logs = self._logs.drain()
            sample, self._unsent_sample = self._unsent_sample, None
            resources = {} if sample is None else self._resources()
            batches = self._batches.drain(everything=self._resend)
            previews = self._previews.drain()
            self._resend = False
        fresh.update(
            dict.fromkeys(self.estimates.estimate(clock))
        )  # after the ended ones: what they leave counts already
        nodes = sorted(dict.fromkeys((*fresh, *ended)), key=lambda node: node.depth)
        snapshots = []
        for node in nodes:
            with self._lock:
                if _is_evicted(node):
                    continue
                node.sent_sequence = node.sequence
                snapshot = take_snapshot(node)
            snapshots.append(redact_snapshot(snapshot))
            self._listener.on_level_collected(node)
        if self._tree.notes:
            self._report_notes()
        return ChangeSet(
            self.instance,
            now,
            clock,
            snapshots,
            events,
            evicted,
            items,
            logs,
            sample,
            resources,
            batches,
            lessons,
            previews,
        )

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
                    self._tree.update_figures(node, clock, now)
                    self.estimates.observe(node, clock)
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


def _is_evicted(node: Node) -> bool:
    here: Node | None = node
    while here is not None:
        if here.evicted:
            return True
        here = here.parent
    return False
