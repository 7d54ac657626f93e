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
from itertools import chain
from typing import Final

from otel_progress.live.inbox import Inbox
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.live.observe import changed, picture
from otel_progress.live.tree import Limits, Refused, Tree, walk
from otel_progress.model import (
    Event,
    Failure,
    Instance,
    MetadataValue,
    OperationSnapshot,
    Outcome,
    Snapshot,
    Status,
)
from otel_progress.protocols import Batch

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
        self._resend = False

    def _late(self) -> None:
        self.on_reject("ended", "a unit was counted on a level that has ended; count before the end")

    # --- writing -----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing is active and nothing waits to be collected."""
        return not self._tree.active and not self._tree.closed and not self._inbox

    def open(self, parent: Node | None, spec: Spec) -> Node | None:
        """Begin a level under ``parent``, or an operation without one; None when that was refused."""
        try:
            with self._lock:
                node = self._tree.open(parent, spec)
        except Refused as refused:
            self.on_reject(refused.reason, refused.text)  # without the lock: it logs, and may raise
            if not refused.again:
                return None
            with self._lock:
                node = self._tree.open(parent, spec, rename=True)
        if parent is None:
            self.on_begin(node)
        self.on_wake()
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
            self._ended.popleft()

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
            self._resend = False
        snapshots = []
        for node in nodes:
            with self._lock:
                if _gone(node):
                    continue
                node.sent = node.sequence
                snapshots.append(picture(node))
            self.on_advance(node)
        if self._tree.notes:
            self._tell_notes()
        return Batch(self.instance, now, clock, snapshots, events, evicted, items)

    def resend(self) -> None:
        """Make the next batch carry every active level again, because a sink missed one."""
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
            return picture(node)

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

    def history(self, operation_type: str | None = None, limit: int = 100) -> Sequence[OperationSnapshot]:
        """Return ended operations, the last one first, without their levels."""
        with self._lock:
            ended = [op for op in reversed(self._ended) if operation_type is None or op.type == operation_type]
        return [self._view(operation, levels=False) for operation in ended[: max(0, limit)]]

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
            events = sorted(chain(operation.items, operation.failures), key=lambda event: event.number)
        found = [
            event
            for event in events
            if (not level or event.path == level or event.path.startswith(level + "/"))
            and (outcome is None or event.outcome is outcome)
            and (since is None or event.at >= since)
        ]
        return found[-limit:] if limit > 0 else []

    def watch(self, interval: float = 0.25) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield operations with their levels: first all active ones, then whatever changed, every ``interval`` seconds."""
        with self._lock:
            over = {ended.run for ended in self._ended}
        seen: dict[str, int] = {}
        pause = threading.Event()
        while True:
            with self._lock:
                operations = [*self._tree.operations.values(), *(one for one in self._ended if one.run not in over)]
                over = {ended.run for ended in self._ended}
            views = [self._view(operation) for operation in operations]
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
                pictures.append(picture(node))
        return OperationSnapshot(
            pictures[0], pictures[1:], self.now(), self.clock(), self.instance, stall_after=self._stall_after
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
