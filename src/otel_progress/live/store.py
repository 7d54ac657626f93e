"""In-memory store of the levels of this process, independent of trace sampling.

Starts and ends take one short lock. The ticker collects changes. Readers get snapshots of the
current state, so a caller reads its own writes. Ended levels are added to the counts of their
parent, and only the most recent few hundred of an operation stay in memory. So ten million levels
take no more memory than a thousand.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from opentelemetry.trace import Span

from otel_progress.live.collector import ChangeCollector
from otel_progress.live.completed_work import CompletedWork
from otel_progress.live.ends import EndOverflow
from otel_progress.live.interruptions import Interruptions
from otel_progress.live.listener import NullListener, StoreListener
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.live.reader import LiveReader
from otel_progress.live.resource_usage import UsageAccumulator
from otel_progress.live.shares import number_records_by_time
from otel_progress.live.snapshots import build_snapshot
from otel_progress.live.span_segments import SpanSegments
from otel_progress.live.state import StoreState
from otel_progress.live.tree import Limits, walk_levels
from otel_progress.model import (
    Failure,
    Instance,
    LevelSnapshot,
    MetadataValue,
    Number,
    Outcome,
    ParentLink,
    Status,
)
from otel_progress.protocols import ChangeSet, RenamedRun
from otel_progress.records import (
    CancelRequest,
    Contribution,
    LogRecord,
    Preview,
    ResourceSample,
    Trajectory,
    TrajectoryEntry,
    TrajectoryKey,
)
from otel_progress.redaction import redact_snapshot
from otel_progress.resumption import ResumedWork, RunClaim
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.text import truncate

REASON_SUPERSEDED: Final = "another process has continued this operation"
"""Message of a request to cancel a superseded operation."""


_LEVELS_PER_LOCK: Final = 1_000
"""Levels of a renamed operation that are changed at once, so that no caller waits long."""


class LiveStore:
    """Store of all levels of this process.

    ``reader`` queries it, and ``collect`` returns its changes.

    ``clock`` returns monotonic seconds, ``now`` Unix seconds, ``ids`` unique hexadecimal ids.
    ``listener`` receives notifications, always without the lock. ``has_trajectory_store`` is True
    when ``load_trajectories`` will be called. ``get_history_scope`` returns the group of runs whose
    history the estimates use, unless an operation has its own group.
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
        get_history_scope: Callable[[], str] = lambda: "",
        listener: StoreListener | None = None,
    ) -> None:
        self.clock = clock
        self.now = now
        self.get_history_scope = get_history_scope
        self.limits = limits or Limits()
        self._listener: StoreListener = listener or NullListener()
        self._state = StoreState(
            instance,
            clock=clock,
            now=now,
            create_id=ids,
            limits=self.limits,
            stall_after=stall_after,
            has_trajectory_store=has_trajectory_store,
            get_history_scope=get_history_scope,
            listener=self._listener,
        )
        self.notify_change = self._state.notify_change
        self.end_level = self._state.end_level
        """Ends a level, see ``StoreState.end_level``. Bound once because every end of a level calls
        it.
        """
        self.create_node = self._state.tree.create_node
        """Returns a pending node for ``start_node``, without a lock. See ``Tree.create_node``."""
        self.start_node = self._state.start_level
        """Starts a pending node, see ``StoreState.start_level``."""
        self.reader = LiveReader(self._state)
        """Reader of the current state. Stays valid after ``restart``."""
        self._interruptions = Interruptions(self._state)
        self._collector = ChangeCollector(self._state)

    @property
    def instance(self) -> Instance:
        """The process whose levels the store contains."""
        return self._state.instance

    @property
    def idle(self) -> bool:
        """True when no level is active and no change waits for the next tick."""
        state = self._state
        return (
            not state.tree.active
            and not state.revised
            and not state.guard
            and not state.tree.closed
            and not len(state.ends)
            and not state.events
            and not state.logs
            and not state.previews
            and not state.completed_keys
            and not state.unsent_checkpoints
            and not state.batches.has_unsent
            and not state.relayed
        )

    @property
    def waiting_ends(self) -> int:
        """Number of ended operations that wait in their smallest form, also in the file."""
        return len(self._state.ends)

    @property
    def dropped_ends(self) -> int:
        """Number of ended levels and operations that no change set will report."""
        return self._state.ends.dropped + self._state.tree.dropped_levels

    def encode_end(self, root: Node) -> bytes:
        """Return an ended operation in the form in which it waits in files."""
        return self._state.encode_end(root)

    def set_end_overflow(self, overflow: EndOverflow) -> None:
        """Set the file of ended operations that do not fit into the memory."""
        self._state.end_overflow = self._state.ends.overflow = overflow

    def spill_ends(self, *, everything: bool = False) -> None:
        """Move waiting ended operations to the file, if there is one.

        Without ``everything``, do it only if they use much memory.
        """
        self._collector.spill_ends(everything=everything)

    def restart(self, instance: Instance) -> None:
        """Drop everything and continue as another instance, with a new lock.

        A forked child calls it.
        """
        self._state.restart(instance)
        self.create_node = self._state.tree.create_node
        self._collector = ChangeCollector(self._state)

    # --- levels ----------------------------------------------------------------------------------

    def start_level(self, parent: Node | None, spec: Spec, node: Node | None = None) -> Node | None:
        """Start a level below ``parent``, or an operation without a parent.

        ``node`` is its pending node, by default a new one. Return None when it was rejected.
        """
        node = self.create_node(parent, spec) if node is None else node
        return node if self.start_node(node) else None

    def start_stage(self, parent: Node, spec: Spec) -> Node | None:
        """Start a stage of ``parent``. Return None when it was rejected."""
        return self._state.start_stage(parent, spec)

    @property
    def is_interrupted(self) -> bool:
        """True if a signal handler of this thread has interrupted a change of a level."""
        return self._state.guard.is_owned()

    def list_running_levels(self) -> Sequence[Node]:
        """Return all running levels of this process."""
        with self._state.lock:
            return list(self._state.tree.active)

    def continue_in_span(self, node: Node, span: Span, segments: SpanSegments, clock: float) -> bool:
        """Let a running level continue in a new span, the next one of ``segments``.

        Return False if the level has ended. Then nothing changes.
        """
        with self._state.lock:
            if node.status.finished or node not in self._state.tree.active:
                return False
            segments.continue_in(span, node.span.get_span_context(), clock)
            node.span, node.span_events = span, 0
            return True

    def start_pause(self, operation: Operation, key: object, reason: str | None) -> None:
        """Start the pause of ``key``. Pauses nest. ``reason`` replaces the message."""
        self._interruptions.start_pause(operation, key, reason)

    def end_pause(self, operation: Operation, key: object, reason: str | None) -> None:
        """End the pause of ``key``, and restore the message before it. Idempotent.

        The outermost end resumes the operation.
        """
        self._interruptions.end_pause(operation, key, reason)

    def start_opaque(self, node: Node, key: object, expected: float | None, *, is_whole_level: bool) -> None:
        """Mark a running level as an opaque step of the block ``key``.

        ``expected`` is in seconds. ``is_whole_level`` is True when the level consists of the step
        only. A step within an opaque step changes nothing.
        """
        self._interruptions.start_opaque(node, key, expected, is_whole_level=is_whole_level)

    def end_opaque(self, node: Node, key: object) -> None:
        """End the block ``key`` of an opaque step. Idempotent.

        After the last one the level has measured figures only.
        """
        self._interruptions.end_opaque(node, key)

    def resume_from(self, node: Node, current: Number) -> None:
        """Set the units that an earlier session completed.

        The curves of the level and its parents restart here.
        """
        self._interruptions.resume_from(node, current)

    # --- sessions --------------------------------------------------------------------------------

    def is_running(self, operation_id: str) -> bool:
        """Return True if this process runs an operation with this id."""
        return operation_id in self._state.tree.operations

    def build_claim(self, node: Node) -> RunClaim:
        """Return the claim of the pending node of an operation.

        It continues the newest run of the operation.
        """
        now, clock = self.now(), self.clock()
        root = build_snapshot(node)
        node.info = None
        info = replace(root.info, started_at=now, started_clock=clock)
        running = replace(
            root,
            info=info,
            sequence=0,
            status=Status.RUNNING,
            observed_at=now,
            observed_clock=clock,
            advanced_at=now,
            advanced_clock=clock,
        )
        return RunClaim(self.instance, redact_snapshot(running), now, clock)

    def continue_run(self, node: Node, work: ResumedWork | None) -> None:
        """Prepare the pending node of an operation that can be resumed."""
        operation = node.operation
        operation.completed_work = CompletedWork(
            operation.run,
            work,
            add_entry=self._state.completed_keys.append,
            on_dropped=self._listener.on_completed_key_dropped,
        )
        if work is None:
            return
        node.attempt, operation.checkpoint = work.attempt, work.checkpoint
        with self._state.lock:
            # Why: the earlier session may be one of this process.
            for ended in self._state.ended:
                if ended.run == work.root.info.run and ended.root is not None:
                    ended.superseded_by, ended.root.snapshot = operation.run, None

    def relay_levels(self, levels: Iterable[LevelSnapshot]) -> None:
        """Store levels of runs of other processes, in the journal only.

        The newest sequence number of a level has precedence. The caller never waits. The oldest
        levels are dropped and counted beyond ``MAX_WAITING_RELAYED``.
        """
        relayed = self._state.relayed
        for level in map(redact_snapshot, levels):
            if len(relayed) == relayed.maxlen:
                self._state.listener.on_event_dropped()
            relayed.append(level)
        self.notify_change()

    def start_resumed_loop(self, node: Node, units: int) -> None:
        """Count the items of a loop that earlier sessions completed."""
        if units:
            self._interruptions.resume_from(node, units)

    def set_checkpoint(self, operation: Operation, text: str) -> None:
        """Set the checkpoint of an operation as JSON."""
        operation.checkpoint = text
        if operation.root is not None:
            # Why: the write of the operation finds whether another process has continued it.
            operation.root.dirty = True
        self._state.guard.run(self._store_checkpoint_locked, operation, text)
        self.notify_change()

    def _store_checkpoint_locked(self, operation: Operation, text: str) -> None:
        # Why under the lock: a tick replaces the dictionary.
        self._state.unsent_checkpoints[operation.run] = text

    def supersede(self, run: str, successor: str) -> None:
        """Mark a run that another process has continued, and request that its work stops."""
        for operation in list(self._state.tree.operations.values()):
            if operation.run == run and operation.superseded_by is None:
                operation.superseded_by = successor
                if operation.completed_work is not None:
                    self.request_cancel(operation.id, REASON_SUPERSEDED, run=run)
                if operation.root is not None:
                    operation.root.dirty = True
                self.notify_change()

    def rename_run(self, run: str, used_ids: Collection[str]) -> str | None:
        """Give an active run an id that neither this process nor ``used_ids`` has.

        Return its id, which stays the same unless ``used_ids`` contains it. Return None if the run
        is not active. The next change set contains the operation.
        """
        state = self._state
        with state.lock:
            operation = state.tree.find_run_locked(run, used_ids)
            if operation is None or operation.root is None:
                return None
            before = operation.id
            state.tree.rename_operation_locked(operation, used_ids)
        if operation.id != before:
            levels = walk_levels(operation.root)
            # Why in parts: a thread that starts a level waits for the lock.
            while part := list(islice(levels, _LEVELS_PER_LOCK)):
                with state.lock:
                    for node in part:
                        node.info = node.snapshot = None
            self.notify_change()
        return operation.id

    def report_renamed(self, renamed: RenamedRun) -> None:
        """Report to the listener that a run was renamed."""
        owner = renamed.owner
        with self._state.lock:
            active = self._state.tree.operations.get(renamed.operation_id)
            operation = active if active is not None and active.run == renamed.run else None
        self._listener.on_late_rejection(
            "duplicate_id",
            f"Invalid operation id {renamed.before!r}: expected an id that no other live process uses, but "
            f"process {owner.pid} on {owner.host.split('/')[0]!r} does. The run continues as "
            f"{renamed.operation_id!r}. Give each process its own id, or use resume=True.",
            None if operation is None or operation.root is None else operation.root.call_site,
        )

    # --- records of levels -----------------------------------------------------------------------

    def read_time(self, operation: Operation) -> float:
        """Return the time for a record of an operation, in Unix seconds.

        It does not precede the start of the operation or an earlier record.
        """
        now = self.now()
        return operation.date(now, self.clock())

    def add_item(
        self,
        node: Node,
        name: str,
        outcome: Outcome,
        error: Failure | None,
        metadata: Mapping[str, MetadataValue],
    ) -> None:
        """Store the event of one unit of work without a lock.

        Count it as dropped when the buffer is full.
        """
        operation, at = node.operation, self.now()
        # Why not read_time: this runs for each item, and the call takes a part of its time.
        if at < operation.latest_at:
            at = operation.date(at, self.clock())
        else:
            operation.latest_at = at
        if not self._state.events.record(node, name, outcome, error, metadata, at):
            self._listener.on_event_dropped()

    def add_log(self, node: Node, record: LogRecord) -> None:
        """Store a log record of a level without a lock.

        Count it as dropped when the buffer is full.
        """
        if not self._state.logs.add(node, record):
            self._listener.on_event_dropped()
        self.notify_change()

    def add_preview(self, node: Node, preview: Preview, evicted: Sequence[Preview] = ()) -> None:
        """Store a preview and drop the ``evicted`` ones, which have no location any more."""
        self._state.guard.run(self._add_preview_locked, node.operation, preview, evicted)
        self.notify_change()

    def _add_preview_locked(self, operation: Operation, preview: Preview, evicted: Sequence[Preview]) -> None:
        self._state.previews.add_locked(operation, preview, evicted)
        root = operation.root
        if root is not None:
            root.dirty = True
            if root.status.finished:
                # Why: its figures are not updated any more, but subscribers need the new number of
                # previews.
                operation.sequence = root.sequence = operation.sequence + 1
                root.snapshot = None

    def add_sample(self, sample: ResourceSample) -> None:
        """Store a resource sample and add it to the usage of all active operations."""
        self._state.guard.run(self._add_sample_locked, sample)

    def _add_sample_locked(self, sample: ResourceSample) -> None:
        state = self._state
        state.samples.append(sample)
        state.unsent_sample = sample
        for operation in state.tree.operations.values():
            if operation.usage is None:
                operation.usage = UsageAccumulator()
            operation.usage.add(sample)

    # --- batches ---------------------------------------------------------------------------------

    def declare_batch(self, id_: str | None, name: str, type_: str, total: int | None) -> str:
        """Declare a batch, or declare a known one again.

        Return its id, which is created when it is None.
        """
        if id_ is None:
            id_ = f"{type_}-{self._state.create_id()[:8]}"
        self._state.guard.run(self._state.batches.declare_locked, id_, name, type_, total)
        self.notify_change()
        return id_

    def set_batch_total(self, batch_id: str, total: int) -> None:
        """Set the number of operations in a batch."""
        self._state.guard.run(self._state.batches.set_total_locked, batch_id, total)
        self.notify_change()

    def close_batch(self, batch_id: str) -> bool:
        """Declare that a batch gets no more operations.

        Return False if it is unknown or was closed before.
        """
        # Why no lock: an exception may interrupt the exit of the block that closes its batch.
        is_open = self._state.batches.is_open(batch_id)
        self._state.guard.run(self._state.batches.close_locked, batch_id)
        self.notify_change()
        return is_open

    def cancel_batch(self, batch_id: str, reason: str) -> int:
        """Request that all active operations of a batch in this process stop.

        Return their number.
        """
        with self._state.lock:
            batch = self._state.batches.get_batch_locked(batch_id)
            roots = [] if batch is None else list(batch.active)
        return sum(self.request_cancel(root.operation.id, reason, run=None) for root in roots)

    def delete_batch(self, batch_id: str) -> bool:
        """Delete a batch with its ended operations.

        Return False, and delete nothing, if it is unknown or has an active operation.
        """
        state = self._state
        if state.is_interrupting():
            state.guard.defer(self.delete_batch, batch_id)
            return state.batches.is_idle(batch_id)
        with state.lock:
            is_deleted = state.batches.delete_locked(batch_id)
            ids = {
                operation.id
                for operation in state.ended
                if is_deleted and operation.root is not None and operation.root.spec.batch == batch_id
            }
        for operation_id in ids:
            self.delete(operation_id)
        return is_deleted

    # --- control ---------------------------------------------------------------------------------

    def request_cancel(self, operation_id: str, reason: str, *, run: str | None = None) -> bool:
        """Request that the active run of this id stops.

        Return False when no such run is active.

        With ``run``, only that run is requested to stop. It is given for requests from the journal.
        Other requests are in the next change set. The first request of a run wins.
        """
        state = self._state
        operation = state.tree.operations.get(operation_id)
        if operation is None or (run is not None and operation.run != run):
            return False
        # Why before the lock: a signal handler may request it, and the work reads it at once.
        if operation.cancel_requested_at is None:
            operation.request_cancel(self.read_time(operation), truncate(reason))
            if operation.root is not None:
                operation.root.dirty = True
            if run is None:
                state.guard.run(self._store_cancel_request_locked, operation)
        self.notify_change()
        return True

    def _store_cancel_request_locked(self, operation: Operation) -> None:
        requests = self._state.unsent_cancel_requests
        at, reason = operation.cancel_requested_at, operation.cancel_reason
        if at is not None and all(request.run != operation.run for request in requests):
            requests.append(CancelRequest(operation.run, operation.id, reason or "", at))

    def fail_abandoned(self, operation_id: str, reason: str) -> bool:  # noqa: ARG002
        """Return False. An operation of this process is never abandoned."""
        return False

    def delete(self, operation_id: str) -> int:
        """Delete all ended runs of this id with their events and logs.

        Return the number of runs.
        """
        state = self._state
        if state.is_interrupting():
            state.guard.defer(self.delete, operation_id)
            return sum(operation.id == operation_id for operation in state.ended)
        with state.lock:
            deleted = [operation for operation in state.ended if operation.id == operation_id]
            state.ended = deque(operation for operation in state.ended if operation.id != operation_id)
            for operation in deleted:
                state.events.drop_operation_locked(operation)
                state.logs.drop_operation_locked(operation)
            locations = state.previews.drop_operations_locked(deleted)
        self._listener.on_previews_deleted(locations)
        return len(deleted)

    # --- operations of several processes ---------------------------------------------------------

    @property
    def has_shared_operations(self) -> bool:
        """True when other processes may work on an operation of this one."""
        return bool(self._state.shared)

    @property
    def dropped_contributions(self) -> int:
        """Number of contributions of other processes that were left out."""
        return self._state.merger.dropped

    def open_share(
        self, link: ParentLink, operation_type: str, type_: str, trace: tuple[int, int] | None
    ) -> Node:
        """Return the node with which this process works on a level of another process.

        ``type_`` is the type of the level, and ``trace`` its trace id and span id.
        """
        state = self._state
        if state.is_interrupting():
            node = state.shares.prepare(link, operation_type, type_, trace)
            state.guard.defer(self.open_share, link, operation_type, type_, trace)
            return node
        with state.lock:
            node = state.shares.open_locked(link, operation_type, type_, trace, state.tree.active)
        self.notify_change()
        return node

    def open_local_share(self, link: ParentLink, spec: Spec) -> Node | None:
        """Return an operation that is linked to a level of another process.

        It is used while both have no store in common. Return None when it was rejected.
        """
        state, key = self._state, (link.run, link.path)
        node = state.shares.local.get(key)
        if node is not None and node.status is Status.RUNNING:
            return node
        started = self.start_level(None, spec)
        if started is None:
            return None
        if state.is_interrupting():
            node = state.shares.choose_local(key, started)
        else:
            with state.lock:
                node = state.shares.choose_local(key, started)
        if node is not started:
            self.end_level(started, Status.CANCELLED)
        return node

    def hold_share(self, node: Node, user: object) -> None:
        """Keep a share open until ``user`` releases it or is collected. Idempotent."""
        self._state.guard.run(self._state.shares.hold_locked, node, user)

    def release_share(self, node: Node, user: object) -> None:
        """Release a share. Idempotent.

        An operation in place of one ends as completed with its last user.
        """
        state = self._state
        if state.is_interrupting():
            state.guard.defer(self.release_share, node, user)
            return
        with state.lock:
            is_last = state.shares.release_locked(node, user)
        if is_last:
            self.end_level(node, Status.COMPLETED)
            state.guard.run(state.shares.forget_local_locked, node)

    def end_local_shares(self) -> None:
        """Complete the operations in place of shares, at the end of the process."""
        for node in list(self._state.shares.local.values()):
            self.end_level(node, Status.COMPLETED)

    def cancel_share_levels(self, reason: str) -> None:
        """Cancel the running levels of this process in operations of other processes."""
        state = self._state
        with state.lock:
            children = [node.children for node in state.shares.list_nodes_locked()]
            running = [
                node
                for found in children
                if found is not None
                for node in found.nodes.values()
                if node.status is Status.RUNNING
            ]
        for node in running:
            self.end_level(node, Status.CANCELLED, message=reason)

    def close_shares(self) -> None:
        """Close all shares after the last tick. Their handles use the next configuration."""
        self._state.guard.run(self._state.shares.close_all_locked)

    def list_share_runs(self) -> list[str]:
        """Return the runs of other processes on which this process works."""
        with self._state.lock:
            return self._state.shares.list_runs_locked()

    def cancel_shares(self, requests: Sequence[CancelRequest]) -> None:
        """Apply requests to cancel runs of other processes to the shares of this one."""
        by_run = {request.run: request for request in requests}
        with self._state.lock:
            operations = [node.operation for node in self._state.shares.list_nodes_locked()]
        for operation in operations:
            request = by_run.get(operation.run)
            if request is not None and operation.cancel_requested_at is None:
                operation.request_cancel(request.at, request.reason)

    def share_level(self, node: Node) -> None:
        """Include the work that other processes do for a level of this process.

        Its handle was pickled.
        """
        operation = node.operation
        if operation.share is not None or operation.run == "":
            return
        node.ensure_extras().is_shared = True
        if not operation.is_shared:
            operation.is_shared = True
            self._state.guard.run(self._share_locked, operation)

    def share_active_operations(self) -> None:
        """Include the work that forked children do for the active operations."""
        for operation in list(self._state.tree.operations.values()):
            if not operation.is_shared:
                operation.is_shared = True
                self._state.guard.run(self._share_locked, operation)

    def _share_locked(self, operation: Operation) -> None:
        self._state.shared[operation.run] = operation
        number_records_by_time(operation, self._state.instance.id, self.now)

    def list_shared_runs(self, late_s: float) -> list[str]:
        """Return the runs on which other processes may work.

        Runs that ended more than ``late_s`` seconds ago are not shared any more.
        """
        state, clock = self._state, self.clock()
        with state.lock:
            for run, operation in list(state.shared.items()):
                root = operation.root
                if root is None or (root.status.finished and _get_age(root, clock) > late_s):
                    del state.shared[run]
                    operation.contributed = None
            return list(state.shared)

    def list_contributors(self) -> list[str]:
        """Return the processes with running levels in operations of this process."""
        with self._state.lock:
            found: dict[str, None] = {}
            for operation in self._state.shared.values():
                known = operation.contributed
                if known is not None:
                    found.update((known.writers[writer], None) for writer, _ in known.nodes)
            return list(found)

    def has_contributors(self, operation: Operation) -> bool:
        """Return True if another process has worked on an operation."""
        return operation.contributed is not None and bool(operation.contributed.writers)

    def merge_contributions(self, contributions: Sequence[Contribution]) -> set[tuple[str, str, str]]:
        """Add the work of other processes to the operations of this one.

        Parents are before their children. Contributions to other operations are ignored. Return the
        keys of levels that have to be merged again, because their parents are not known yet.
        """
        waiting: set[tuple[str, str, str]] = set()
        by_run: dict[str, list[Contribution]] = {}
        for contribution in contributions:
            by_run.setdefault(contribution.level.info.run, []).append(contribution)
        state = self._state
        for run, found in by_run.items():
            ended: list[Node] = []
            with state.lock:
                operation = state.shared.get(run)
                if operation is None:
                    continue
                revised = state.merger.merge_locked(operation, found, ended, waiting)
                state.revised.update(
                    dict.fromkeys(state.merger.revise_locked(revised, self.clock(), self.now()))
                )
            for node in ended:
                self._listener.on_level_ended(node)
            self.notify_change()
        if state.tree.late_rejections:
            state.report_late_rejections()
        return waiting

    def end_contributors(self, gone: Sequence[str]) -> None:
        """Cancel the running levels of processes that have ended."""
        state, ended = self._state, list[Node]()
        if not gone:
            return
        with state.lock:
            for operation in state.shared.values():
                state.merger.end_writers_locked(operation, gone, ended)
        for node in ended:
            self._listener.on_level_ended(node)
        self.notify_change()

    # --- ticks -----------------------------------------------------------------------------------

    def collect(self) -> ChangeSet:
        """Return what changed since the last call. The ticker calls it.

        A signal handler that interrupts a change gets no changes. They remain for the next call.
        """
        if self._state.is_interrupting():
            return ChangeSet(self._state.instance, self.now(), self.clock())
        try:
            return self._collector.collect()
        except BaseException:
            # Why: what was collected is lost, such as after an exception of a signal handler.
            self._collector.request_resend(ended=True)
            raise

    def is_interrupting(self) -> bool:
        """Return True if the caller interrupts this thread inside the lock.

        Such a call must not wait for another thread, which may wait for the lock.
        """
        return self._state.is_interrupting()

    def run_after_interrupted_call(self, function: Callable[[], object]) -> bool:
        """Defer a call if the caller interrupts this thread inside the lock.

        Otherwise return False.
        """
        return self._state.is_interrupting() and self._state.guard.defer(function)

    def resend(self, *, ended: bool = False) -> None:
        """Include all levels of active operations and all batches in the next change set.

        With ``ended``, include recently ended operations too.
        """
        self._collector.request_resend(ended=ended)

    def load_trajectories(
        self,
        load: Callable[[TrajectoryKey], Sequence[Trajectory]],
        persisted: Sequence[TrajectoryEntry] = (),
    ) -> None:
        """Load the trajectories of past runs that estimates need.

        Call it from a thread that may wait.

        ``persisted`` are entries that the journal has stored. A failed load is reported and retried
        later.
        """
        self._state.estimates.load_trajectories(load, persisted)


def _get_age(root: Node, clock: float) -> float:
    """Return the seconds since the end of an operation."""
    return clock - ((root.started_clock or 0.0) + (root.duration or 0.0))
