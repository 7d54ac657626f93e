"""Collects what changed in the live store, once per tick."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.ends import DECODE_ERRORS, decode_end
from otel_progress.live.figures import needs_update
from otel_progress.live.node import Node, Operation
from otel_progress.live.shares import build_contribution_locked
from otel_progress.live.snapshots import take_snapshot_locked
from otel_progress.live.state import StoreState
from otel_progress.live.tree import walk_levels
from otel_progress.model import LevelSnapshot, Status
from otel_progress.protocols import ChangeSet
from otel_progress.records import CancelRequest, Contribution, ResourceUse
from otel_progress.redaction import redact_message, redact_snapshot
from otel_progress.resumption import CompletedKey

MAX_ENDS_PER_TICK: Final = 5_000
"""Ended operations in their smallest form per tick. The others wait for the next tick."""


class ChangeCollector:
    """Builds the change set of each tick.

    Holds the lock for one node at a time, so no caller waits long.
    """

    def __init__(self, state: StoreState) -> None:
        self._state = state
        self._resend = False
        self._resend_ended = False
        self._contributions: list[Contribution] = []

    def request_resend(self, *, ended: bool = False) -> None:
        """Include all levels of active operations and all batches in the next change set.

        With ``ended``, include recently ended operations too.
        """
        # Why this order: another thread may collect between the two.
        self._resend_ended |= ended
        self._resend = True

    def collect(self) -> ChangeSet:
        """Return what changed since the last call."""
        state = self._state
        state.end_orphans()
        state.end_interrupted()
        now, clock = state.now(), state.clock()
        state.estimates.refresh_opaque(clock)
        closed_shares = self._close_shares(clock, now)
        changed = self._update_changed(clock, now)
        reduced = self._take_reduced()
        with state.lock:
            ended = self._take_ended_locked(clock, now)
            revised, state.revised = list(state.revised), {}
            stored = self._list_stored_operations_locked() if self._resend else []
            evicted, state.tree.evicted = state.tree.evicted, []
            counts, state.tree.items = state.tree.items, {}
            events = state.events.drain_locked()
            trajectories = state.estimates.trajectories.drain_locked()
            logs = state.logs.drain_locked()
            sample, state.unsent_sample = state.unsent_sample, None
            resources = {} if sample is None else self._get_resources_locked()
            batches = state.batches.drain_locked(everything=self._resend)
            previews = state.previews.drain_locked()
            requests, state.unsent_cancel_requests = state.unsent_cancel_requests, []
            if self._resend:
                requests += self._list_cancel_requests_locked()
            is_lost = self._resend_ended
            self._resend = self._resend_ended = False
        # Why after the ended levels: estimates already use their trajectories.
        estimated = state.estimates.estimate(clock)
        snapshots = reduced + self._take_snapshots(
            [*closed_shares, *changed, *estimated, *ended, *revised], [*closed_shares, *ended, *revised]
        )
        if stored:
            snapshots = self._add_stored_snapshots(snapshots, stored)
        if state.tree.late_rejections:
            state.report_late_rejections()
        # Why after the snapshots: no level may be counted in the journal without its key.
        completed_keys, checkpoints = self._take_completed_work(is_lost)
        # Why again: a reader may have updated a level since. The heartbeat must not be older.
        now, clock = state.now(), state.clock()
        contributions, self._contributions = self._contributions, []
        relayed = [state.relayed.popleft() for _ in range(len(state.relayed))]
        return ChangeSet(
            state.instance,
            now,
            clock,
            snapshots=snapshots,
            events=events,
            evicted=evicted,
            items={label: count.units for label, count in counts.items()},
            logs=logs,
            sample=sample,
            resources=resources,
            batches=batches,
            trajectories=trajectories,
            previews=previews,
            cancel_requests=[replace(request, reason=redact_message(request.reason)) for request in requests],
            completed_keys=completed_keys,
            checkpoints=checkpoints,
            contributions=contributions,
            relayed=relayed,
        )

    def _take_completed_work(self, is_lost: bool) -> tuple[list[CompletedKey], dict[str, str]]:
        """Return the new keys and checkpoints.

        If they were lost, return all of active operations.
        """
        state = self._state
        keys = [state.completed_keys.popleft() for _ in range(len(state.completed_keys))]
        with state.lock:
            checkpoints, state.unsent_checkpoints = state.unsent_checkpoints, {}
            operations = list(state.tree.operations.values()) if is_lost else []
        for operation in operations:
            if operation.checkpoint is not None:
                checkpoints[operation.run] = operation.checkpoint
            if operation.completed_work is not None:
                keys += operation.completed_work.list_entries()
        return keys, checkpoints

    def _close_shares(self, clock: float, now: float) -> list[Node]:
        """Close idle shares. Return the closed ones, whose last figures are due."""
        state = self._state
        if not len(state.shares) and not state.shares.is_closing:
            return []
        with state.lock:
            closed = state.shares.take_closed_locked(state.tree.active)
            for node in closed:
                state.tree.update_level_locked(node, clock, now)
            state.shares.close_idle_locked(clock)
            if self._resend:
                closed += state.shares.list_nodes_locked()
        return closed

    def spill_ends(self, *, everything: bool = False) -> None:
        """Move ended operations to the file if they use much memory, or ``everything``."""
        state, overflow = self._state, self._state.ends.overflow
        if overflow is None:
            return
        with state.lock:
            count = len(state.ends)
            surplus = state.ends.take_locked(count) if everything else state.ends.take_surplus_locked()
        if not surplus:
            return
        stored = overflow.append(surplus)
        if stored < len(surplus):
            with state.lock:
                state.ends.return_locked(surplus[stored:])

    def _take_reduced(self) -> list[LevelSnapshot]:
        """Return ended operations that waited in their smallest form.

        Those in memory come first. Reading the file is slower.
        """
        state, overflow = self._state, self._state.ends.overflow
        if not len(state.ends):
            return []
        self.spill_ends()
        with state.lock:
            records = state.ends.take_locked(MAX_ENDS_PER_TICK)
        if overflow is not None and len(overflow) and len(records) < MAX_ENDS_PER_TICK:
            records += overflow.read(MAX_ENDS_PER_TICK - len(records))
            overflow.remove_read()
        return [snapshot for record in records if (snapshot := _decode(record)) is not None]

    def _update_changed(self, clock: float, now: float) -> dict[Node, None]:
        """Update the figures of the changed levels and their parents, deepest first."""
        lock, tree, estimates = self._state.lock, self._state.tree, self._state.estimates
        with lock:
            active = list(tree.active)
        by_depth: dict[int, dict[Node, None]] = {}
        for node in active:
            # Why the sequence number: a reader may have updated the node, and the sinks still need
            # the change.
            if self._resend or node.sequence != node.sent_sequence or needs_update(node):
                by_depth.setdefault(node.depth, {})[node] = None
        updated: dict[Node, None] = {}
        for depth in range(max(by_depth, default=-1), -1, -1):
            for node in by_depth.get(depth, {}):
                with lock:
                    if node.status is not Status.RUNNING:
                        continue
                    tree.update_level_locked(node, clock, now)
                    estimates.observe_locked(node)
                updated[node] = None
                if node.parent is not None:
                    by_depth.setdefault(depth - 1, {})[node.parent] = None
        return updated

    def _take_ended_locked(self, clock: float, now: float) -> list[Node]:
        """Return the ended and the announced levels that no change set has reported."""
        state = self._state
        ended = list(state.tree.closed)
        state.tree.closed.clear()
        for node in ended:
            if node.sequence == 0:
                state.tree.update_level_locked(node, clock, now)
            if node.status.finished:
                state.estimates.finish_locked(node)
        return ended

    def _take_snapshots(self, nodes: Iterable[Node], ended: Iterable[Node]) -> list[LevelSnapshot]:
        """Return the snapshots of the nodes, parents before children.

        ``ended`` are the levels whose end this tick reports. An operation that ended since is left
        out, because a later tick reports it, possibly in its smallest form.
        """
        ended_roots = {node for node in ended if node.parent is None}
        lock, report = self._state.lock, self._state.listener.on_level_collected
        snapshots = []
        for node in sorted(dict.fromkeys(nodes), key=lambda node: node.depth):
            with lock:
                if node.parent is None and node.status.finished and node not in ended_roots:
                    continue
                if _is_evicted(node):
                    continue
                node.sent_sequence = node.sequence
                if node.operation.share is not None:
                    contribution = build_contribution_locked(node)
                    if node.status.finished:
                        self._state.tree.release_contributed_locked(node)
                    self._contributions.append(
                        replace(contribution, level=redact_snapshot(contribution.level))
                    )
                    continue
                snapshot = take_snapshot_locked(node)
            snapshots.append(redact_snapshot(snapshot))
            report(node)
        return snapshots

    def _list_stored_operations_locked(self) -> list[Operation]:
        ended = self._state.ended if self._resend_ended else ()
        return [*ended, *self._state.tree.operations.values()]

    def _add_stored_snapshots(
        self, snapshots: list[LevelSnapshot], operations: Iterable[Operation]
    ) -> list[LevelSnapshot]:
        """Return the snapshots with those of all other stored levels.

        Parents are before children.
        """
        known = {(snapshot.info.run, snapshot.info.path) for snapshot in snapshots}
        added = []
        for root in (operation.root for operation in operations):
            for node in () if root is None else walk_levels(root):
                with self._state.lock:
                    if _is_evicted(node):
                        continue
                    snapshot = take_snapshot_locked(node)
                if (snapshot.info.run, snapshot.info.path) not in known:
                    added.append(redact_snapshot(snapshot))
        return sorted((*snapshots, *added), key=lambda snapshot: snapshot.info.depth)

    def _list_cancel_requests_locked(self) -> list[CancelRequest]:
        """Return the requests of all active operations.

        The journal keeps those that it has.
        """
        return [
            CancelRequest(operation.run, operation.id, operation.cancel_reason or "", at)
            for operation in self._state.tree.operations.values()
            if (at := operation.cancel_requested_at) is not None
        ]

    def _get_resources_locked(self) -> dict[str, ResourceUse]:
        return {
            operation.run: operation.resources
            for operation in self._state.tree.operations.values()
            if operation.resources is not None
        }


def _decode(record: bytes) -> LevelSnapshot | None:
    try:
        return decode_end(record)
    except DECODE_ERRORS as error:
        report_internal_error("tick", "The record of an ended operation is invalid", error=error)
        return None


def _is_evicted(node: Node) -> bool:
    here: Node | None = node
    while here is not None:
        if here.evicted:
            return True
        here = here.parent
    return False
