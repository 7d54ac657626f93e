"""State of the live store, with the lock that protects it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from otel_progress.live.batches import BatchRegistry
from otel_progress.live.buffers import EventBuffer, LogBuffer, PreviewBuffer
from otel_progress.live.estimation.tracker import EstimateTracker
from otel_progress.live.estimation.trajectories import TrajectoryCache
from otel_progress.live.listener import StoreListener
from otel_progress.live.node import Node, Operation
from otel_progress.live.tree import Limits, Tree
from otel_progress.model import Failure, Instance, Status
from otel_progress.records import ResourceSample

MAX_SAMPLES: Final = 3_600
"""Resource samples in memory: one hour at one per second. Beyond it, the oldest are dropped."""


REASON_COLLECTED: Final = "its handle was garbage-collected before it ended"


class StoreState:
    """Levels, buffers and estimates of one process.

    The live store writes them, and its reader reads them.

    ``lock`` protects everything here. Methods whose name ends in ``_locked`` require it. The
    listener is always called without the lock.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        create_id: Callable[[], str],
        limits: Limits,
        stall_after: float,
        has_trajectory_store: bool,
        get_history_scope: Callable[[], str],
        listener: StoreListener,
    ) -> None:
        self.clock = clock
        self.now = now
        self.create_id = create_id
        self.get_history_scope = get_history_scope
        self.limits = limits
        self.listener = listener
        self._stall_after = stall_after
        self._has_trajectory_store = has_trajectory_store
        self._clear(instance)

    def restart(self, instance: Instance) -> None:
        """Drop everything and continue as another instance, with a new lock.

        A forked child calls it.
        """
        # Why: handles in the child still reference these nodes. The parent process continues with
        # its own copies.
        for node in list(self.tree.active):
            node.status = Status.CANCELLED
        self._clear(instance)

    def _clear(self, instance: Instance) -> None:
        self.instance = instance
        self.lock = threading.RLock()
        self.tree = Tree(
            instance.id,
            self.limits,
            self.clock,
            self.now,
            self.create_id,
            self._report_late_count,
            self._stall_after,
        )
        self.estimates = EstimateTracker(
            self.lock,
            TrajectoryCache(has_backend=self._has_trajectory_store, get_scope=self.get_history_scope),
            self.clock,
        )
        self.ended: deque[Operation] = deque()
        """Ended operations in memory, the oldest first."""
        self.events = EventBuffer(self.limits)
        self.logs = LogBuffer()
        self.previews = PreviewBuffer()
        self.batches = BatchRegistry(self.now, self.clock)
        self.samples: deque[ResourceSample] = deque(maxlen=MAX_SAMPLES)
        self.unsent_sample: ResourceSample | None = None

    def _report_late_count(self) -> None:
        self.listener.on_rejection(
            "ended", "Invalid count on an ended level: expected a running level. Count before the end."
        )

    def find_operation_locked(self, operation_id: str) -> Operation | None:
        """Return the newest run of this id, or None."""
        operation = self.tree.operations.get(operation_id)
        if operation is not None:
            return operation
        return next((ended for ended in reversed(self.ended) if ended.id == operation_id), None)

    def end_level(
        self, node: Node, status: Status, *, error: Failure | None = None, message: str | None = None
    ) -> bool:
        """End a level and all running levels below it.

        Return False when it had ended before.
        """
        ended: list[Node] = []
        with self.lock:
            if node not in self.tree.active:
                return False
            if error is not None:
                node.error = error
            if message is not None:
                node.message = message
            self.tree.end_level_locked(node, status, ended)
            if node.parent is None:
                self._store_ended_locked(node.operation)
                if node.spec.batch is not None:
                    self.batches.remove_operation_locked(node.spec.batch, node)
        for each in ended:
            self.listener.on_level_ended(each)
        if self.tree.late_rejections:
            self.report_late_rejections()
        return True

    def end_orphans(self) -> None:
        """Cancel the levels whose handles were garbage-collected."""
        with self.lock:
            operations = [operation for operation in self.tree.operations.values() if operation.orphaned]
            for operation in operations:
                operation.orphaned = False
            orphans = [node for node in self.tree.active if node.orphaned] if operations else []
        for node in orphans:
            self.end_level(node, Status.CANCELLED, message=REASON_COLLECTED)

    def report_late_rejections(self) -> None:
        """Report to the listener what the tree rejected while the lock was held."""
        with self.lock:
            rejections, self.tree.late_rejections = self.tree.late_rejections, []
        for reason, text in rejections:
            self.listener.on_late_rejection(reason, text)

    def _store_ended_locked(self, operation: Operation) -> None:
        self.ended.append(operation)
        count = 0
        for earlier in reversed(self.ended):
            count += 0 if earlier.ended is None else len(earlier.ended)
            if count > self.limits.history_levels and earlier.root is not None and earlier is not operation:
                earlier.root.children = earlier.ended = None
        if len(self.ended) > self.limits.history:
            evicted = self.ended.popleft()
            self.events.drop_operation_locked(evicted)
            self.logs.drop_operation_locked(evicted)
            self.previews.drop_operations_locked([evicted])
