"""State of the live store, with the lock that protects it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.ends import encode_end
from otel_progress.interrupts import is_interrupt
from otel_progress.live.batches import BatchRegistry
from otel_progress.live.buffers import EventBuffer, LogBuffer, PreviewBuffer
from otel_progress.live.contributions import ContributionMerger
from otel_progress.live.ends import EndOverflow, EndQueue
from otel_progress.live.estimation.tracker import EstimateTracker
from otel_progress.live.estimation.trajectories import TrajectoryCache
from otel_progress.live.listener import StoreListener
from otel_progress.live.node import (
    BlockReference,
    HandleReference,
    Node,
    Operation,
    Spec,
    find_loop_status,
    orphans,
    raise_counter_missing,
)
from otel_progress.live.shares import ShareRegistry
from otel_progress.live.snapshots import take_snapshot_locked
from otel_progress.live.tree import WAITING_DROPPED, Limits, OpenRejected, Tree
from otel_progress.locking import CallerLock
from otel_progress.model import Failure, Instance, LevelSnapshot, Status
from otel_progress.records import CancelRequest, ResourceSample
from otel_progress.redaction import redact_snapshot
from otel_progress.resumption import CompletedKey

MAX_SAMPLES: Final = 3_600
"""Resource samples in memory: one hour at one per second. Beyond it, the oldest are dropped."""


MAX_WAITING_KEYS: Final = 1_000_000
"""Completed keys that wait for a tick. Beyond it the oldest are dropped, and their items run again
when the operation is resumed. This happens only when ticks hang.
"""


MAX_WAITING_RELAYED: Final = 10_000
"""Relayed levels that wait for a tick. Beyond it the oldest are dropped."""


class StoreState:
    """Levels, buffers and estimates of one process.

    The live store writes them, and its reader reads them.

    ``lock`` protects everything here. Methods whose name ends in ``_locked`` require it. The
    listener is always called without the lock. ``guard`` holds the same lock, and the calls that
    interrupted its owner. Such calls change nothing until the release.
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
        self.notify_change: Callable[[], None] = listener.on_change
        """The listener's method, bound once because every start of a level calls it."""
        self.was_interrupted = False
        """True while the end of some level may have been interrupted by an exception."""
        self._stall_after = stall_after
        self._has_trajectory_store = has_trajectory_store
        self.end_overflow: EndOverflow | None = None
        """File of the ended operations that do not fit into the memory. Survives a restart."""
        self._clear(instance)

    def restart(self, instance: Instance) -> None:
        """Drop everything and continue as another instance, with a new lock.

        A forked child calls it.
        """
        # Why: handles in the child still reference these nodes. The parent process continues with
        # its own copies.
        for node in list(self.tree.active):
            node.status = Status.CANCELLED
            # Why: the next count of a handle makes it a handle of a level of another process.
            node.count_one = raise_counter_missing
        self._clear(instance)

    def _clear(self, instance: Instance) -> None:
        self.instance = instance
        self.guard = CallerLock(on_dropped=self._report_dropped_call)
        self.lock = self.guard.lock
        self.tree = Tree(
            instance.id,
            self.limits,
            self.clock,
            self.now,
            self.create_id,
            self._report_late_count,
            self._stall_after,
        )
        self.tree.restart_curve = self.restart_curve_locked
        self.estimates = EstimateTracker(
            self.lock,
            TrajectoryCache(has_backend=self._has_trajectory_store, get_scope=self.get_history_scope),
            self.clock,
        )
        self.ended: deque[Operation] = deque()
        """Ended operations in memory, the oldest first."""
        self.ends = EndQueue(self.limits.waiting_end_bytes, self.end_overflow)
        self.events = EventBuffer(self.limits)
        self.logs = LogBuffer()
        self.previews = PreviewBuffer()
        self.batches = BatchRegistry(self.now, self.clock)
        self.completed_keys: deque[CompletedKey] = deque(maxlen=MAX_WAITING_KEYS)
        """Completed keys that no change set contains yet."""
        self.unsent_checkpoints: dict[str, str] = {}
        """Checkpoints that no change set contains yet, by run."""
        self.samples: deque[ResourceSample] = deque(maxlen=MAX_SAMPLES)
        self.unsent_sample: ResourceSample | None = None
        self.unsent_cancel_requests: list[CancelRequest] = []
        """Requests made in this process, at most one per run."""
        self.shares = ShareRegistry(instance.id, self.clock, self.now, self._stall_after)
        self.merger = ContributionMerger(self.tree)
        self.shared: dict[str, Operation] = {}
        """Operations on which other processes may work, by run. Ended ones stay for seconds."""
        self.revised: dict[Node, None] = {}
        """Ended levels whose figures changed and that no change set has reported."""
        self.relayed: deque[LevelSnapshot] = deque(maxlen=MAX_WAITING_RELAYED)
        """Levels of runs of other processes that no change set contains yet."""

    def _report_late_count(self) -> None:
        self.listener.on_rejection(
            "ended", "Invalid count on an ended level: expected a running level. Count before the end."
        )

    def _report_dropped_call(self) -> None:
        self.listener.on_event_dropped()

    def is_interrupting(self) -> bool:
        """Return True when the calling function interrupts this thread inside the lock."""
        return self.guard.is_owned() and self.guard.is_interrupting(2)

    def find_operation_locked(self, operation_id: str) -> Operation | None:
        """Return the newest run of this id, or None."""
        operation = self.tree.operations.get(operation_id)
        if operation is not None:
            return operation
        return next((ended for ended in reversed(self.ended) if ended.id == operation_id), None)

    def restart_curve_locked(self, node: Node) -> None:
        """Restart the curves of a level and its parents.

        Why: resumed work is not an advance.
        """
        now, clock = self.now(), self.clock()
        estimation = self.estimates.track_locked(node)
        if estimation is not None:
            estimation.restart_pending = True
        here: Node | None = node
        while here is not None:
            self.tree.update_level_locked(here, clock, now)
            self.estimates.observe_locked(here)
            here = here.parent

    # --- starts ----------------------------------------------------------------------------------

    def start_level(self, node: Node) -> bool:
        """Add a pending node to the tree and start it. Return False when it was rejected.

        An exception that interrupts the start ends the level again.
        """
        guard = self.guard
        if guard.is_owned() and guard.is_interrupting():
            return self._defer_start(node)
        try:
            try:
                # Why not _add_node: each start of a level calls this.
                with self.lock:
                    is_started = self.tree.start_level_locked(node)
                    if node.spec.batch is not None and node.parent is None:
                        self.batches.add_operation_locked(node.spec.batch, node)
            except OpenRejected as rejection:
                self.listener.on_rejection(rejection.reason, rejection.text)
                if not rejection.can_rename:
                    return False
                is_started = self._add_node(node, rename=True)
            if is_started and node.parent is None:
                self.listener.on_operation_started(node)
            self.notify_change()
            if guard.calls:
                guard.run_deferred()
        except BaseException as error:
            self.cancel_start(node, error)
            raise
        return True

    def _add_node(self, node: Node, *, rename: bool = False) -> bool:
        with self.lock:
            is_started = self.tree.start_level_locked(node, rename=rename)
            if node.parent is None and node.spec.batch is not None:
                self.batches.add_operation_locked(node.spec.batch, node)
        return is_started

    def cancel_start(self, node: Node, error: BaseException) -> None:
        """End a level whose start was interrupted by an exception, if it was added.

        The caller gets no handle with which it could end the level.
        """
        self.guard.release_all()
        with self.lock:
            is_added = node in self.tree.active
        if not is_added and node.parent is not None and node.parent.children is not None:
            nodes = node.parent.children.nodes
            is_added = nodes.get(node.path_segment) is node
        if not is_added and node.parent is None:
            is_added = self.tree.operations.get(node.operation.id) is node.operation
        if is_added:
            with suppress(OpenRejected):  # its parent has ended
                self._add_node(node)
            self.end_level(node, Status.CANCELLED, message=type(error).__name__)

    def _defer_start(self, node: Node) -> bool:
        """Start a level after the interrupted owner of the lock has released it."""
        if node.parent is not None and node.parent.status is not Status.RUNNING:
            return False
        if not self.guard.defer(self._start_deferred, node):
            return False
        # Why now: the interrupting call may count and end the level.
        node.status = Status.RUNNING
        self.notify_change()
        return True

    def _start_deferred(self, node: Node) -> None:
        try:
            is_started = self._add_node(node)
        except OpenRejected as rejection:
            self.listener.on_late_rejection(rejection.reason, rejection.text, node.call_site)
            if not rejection.can_rename:
                node.status = Status.CANCELLED
                return
            is_started = self._add_node(node, rename=True)
        if is_started and node.parent is None:
            self.listener.on_operation_started(node)

    def start_stage(self, parent: Node, spec: Spec) -> Node | None:
        """Start a stage of ``parent``. Return None when it was rejected."""
        if self.is_interrupting():
            return self._defer_stage(parent, spec)
        started: list[Node] = []
        ended: list[Node] = []
        try:
            try:
                with self.lock:
                    node = self.tree.start_stage_locked(parent, spec, started, ended)
            except OpenRejected as rejection:
                self.listener.on_rejection(rejection.reason, rejection.text)
                return None
            for each in ended:
                self.listener.on_level_ended(each)
            self.notify_change()
            if self.guard.calls:
                self.guard.run_deferred()
        except BaseException as error:
            self.was_interrupted = True
            self.guard.release_all()
            self.end_interrupted()
            for each in ended:
                self.listener.on_level_ended(each)
            for each in started:
                self.end_level(each, Status.CANCELLED, message=type(error).__name__)
            raise
        return node

    def _defer_stage(self, parent: Node, spec: Spec) -> Node | None:
        stages = None if parent.children is None else parent.children.stages
        if parent.status is not Status.RUNNING:
            return None
        if stages is None:
            node = self.tree.create_node(parent, spec)
        else:
            found = next((stage for stage in stages if stage.id == spec.id), None)
            if found is None:
                return None
            node = found
        is_deferred = self.guard.defer(self._start_deferred_stage, parent, spec, node)
        return node if is_deferred else None

    def _start_deferred_stage(self, parent: Node, spec: Spec, node: Node) -> None:
        ended: list[Node] = []
        try:
            with self.lock:
                self.tree.start_stage_locked(parent, spec, [], ended, node)
        except OpenRejected as rejection:
            self.listener.on_late_rejection(rejection.reason, rejection.text, node.call_site)
        for each in ended:
            self.listener.on_level_ended(each)

    # --- ends ------------------------------------------------------------------------------------

    def end_level(
        self, node: Node, status: Status, *, error: Failure | None = None, message: str | None = None
    ) -> bool:
        """End a level and all running levels below it.

        Return False when it had ended before. An exception that interrupts the end is raised
        after the level has ended.
        """
        guard = self.guard
        if node.operation.is_shared and not self._prepare_shared_end(node):
            return False
        if guard.is_owned() and guard.is_interrupting():
            return not node.status.finished and guard.defer(self._end_deferred, node, status, error, message)
        if node.children is not None and node.children.running and not node.status.finished:
            self.listener.on_parent_ending(node)
        ended: list[Node] = []
        try:
            with self.lock:
                if node not in self.tree.active:
                    return False
                if error is None and message is None and node.parent is not None:
                    self.tree.end_level_locked(node, status, ended)
                else:
                    self._end_level_locked(node, status, error, message, ended)
            for each in ended:
                self.listener.on_level_ended(each)
            if node.parent is None and len(self.tree.closed) > self.limits.waiting_operations:
                self._reduce_ended_safely(node)
            if self.tree.late_rejections:
                self.report_late_rejections()
            if guard.calls:
                guard.run_deferred()
        except BaseException:
            self._repeat_end(node, status, error, message, ended)
            raise
        return True

    def _prepare_shared_end(self, node: Node) -> bool:
        """Let the listener read the work of other processes before a level ends.

        Return False for a level of another process, which only that process ends.
        """
        if node.operation.share is not None:
            return node.parent is not None
        extras = node.extras
        is_used = extras is not None and (extras.is_shared or extras.shares is not None)
        # Why not for a call that interrupts a change: it would wait for its own thread.
        if node.status is Status.RUNNING and (node.parent is None or is_used) and not self.guard.is_owned():
            self.listener.on_shared_level_ending(node)
        return True

    def _end_level_locked(
        self, node: Node, status: Status, error: Failure | None, message: str | None, ended: list[Node]
    ) -> None:
        if error is not None:
            node.error = error
        if message is not None:
            node.message = message
        self.tree.end_level_locked(node, status, ended)
        if node.parent is None:
            self._store_ended_locked(node.operation)
            if node.spec.batch is not None:
                self.batches.remove_operation_locked(node.spec.batch, node)
            self.tree.drop_active_locked(node)

    def _reduce_ended_safely(self, root: Node) -> None:
        try:
            self._reduce_ended(root)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("tick", "An ended operation could not be encoded", error=error)

    def encode_end(self, root: Node) -> bytes:
        """Return an ended operation in its smallest form."""
        with self.lock:
            if root.sequence == 0:
                self.tree.update_level_locked(root, self.clock(), self.now())
            snapshot = take_snapshot_locked(root)
        return encode_end(redact_snapshot(snapshot))

    def _reduce_ended(self, root: Node) -> None:
        """Replace an ended operation that waits for a tick by its smallest form.

        The caller's thread does it, but only while many ended levels wait. So the memory stays
        bounded however long the ticker waits for the processor.
        """
        with self.lock:
            if root not in self.tree.closed:
                return
        record = self.encode_end(root)
        with self.lock:
            # Why again: a tick may have collected it in the meantime.
            if root not in self.tree.closed:
                return
            dropped = self.ends.add_locked(record)
            del self.tree.closed[root]
            self.estimates.finish_locked(root)
            root.sent_sequence = root.sequence
            self.tree.late_rejections += [WAITING_DROPPED] * dropped

    def _repeat_end(
        self, node: Node, status: Status, error: Failure | None, message: str | None, ended: list[Node]
    ) -> None:
        """Complete an end that an exception interrupted. Each step is idempotent."""
        self.was_interrupted = True
        self.guard.release_all()
        with self.lock:
            if node in self.tree.active:
                self._end_level_locked(node, status, error, message, ended)
        for each in ended:
            self.listener.on_level_ended(each)

    def _end_deferred(self, node: Node, status: Status, error: Failure | None, message: str | None) -> None:
        self.end_level(node, status, error=error, message=message)

    def end_interrupted(self) -> None:
        """Complete the ends that exceptions interrupted, also while they were repeated."""
        if not self.was_interrupted:
            return
        with self.lock:
            interrupted = self.tree.list_interrupted_locked()
        for node in interrupted:
            self.end_level(node, node.status)
        self.was_interrupted = False

    def end_orphans(self) -> None:
        """Run deferred calls, and end what garbage-collected handles and exits left."""
        if self.is_interrupting():
            return
        if self.guard.calls:
            self.guard.run_deferred()
        # Why bounded: the end of a level may collect further handles.
        for _ in range(len(orphans)):
            try:
                reference: HandleReference | BlockReference = orphans.popleft()
            except IndexError:  # another thread handles it
                return
            try:
                # Why defaults: an exception may have interrupted the creation of the reference.
                if isinstance(reference, BlockReference):
                    leave: Callable[[], object] | None = getattr(reference, "leave", None)
                    if leave is not None:
                        leave()
                    continue
                node: Node | None = getattr(reference, "node", None)
                if node is not None and node.handle is reference:
                    ended_as = find_loop_status(node, reference)
                    message = None if ended_as is Status.COMPLETED else reference.reason
                    self.end_level(node, ended_as, message=message)
            except BaseException:
                orphans.append(reference)
                raise

    def report_late_rejections(self) -> None:
        """Report to the listener what the tree rejected while the lock was held."""
        with self.lock:
            rejections, self.tree.late_rejections = self.tree.late_rejections, []
        for reason, text, call_site in rejections:
            self.listener.on_late_rejection(reason, text, call_site)

    def _store_ended_locked(self, operation: Operation) -> None:
        if not self.ended or self.ended[-1] is not operation:
            self.ended.append(operation)
        count = 0
        for earlier in reversed(self.ended):
            count += 0 if earlier.ended is None else len(earlier.ended)
            if count > self.limits.history_levels and earlier.root is not None and earlier is not operation:
                earlier.root.children = earlier.ended = None
        if len(self.ended) > self.limits.history:
            evicted = self.ended[0]
            self.events.drop_operation_locked(evicted)
            self.logs.drop_operation_locked(evicted)
            self.previews.drop_operations_locked([evicted])
            self.ended.popleft()
