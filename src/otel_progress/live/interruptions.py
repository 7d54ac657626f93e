"""Pauses, opaque steps and resumed work of the live store.

They are rare, so each call takes the store's lock.
"""

from __future__ import annotations

from dataclasses import replace

from otel_progress.fork import defer_fork
from otel_progress.live.node import Node, Operation
from otel_progress.live.opaque import Opaque
from otel_progress.live.pauses import Change, Pauses, store_changes
from otel_progress.live.state import StoreState
from otel_progress.model import Number, Status


class Interruptions:
    """Pauses operations, marks opaque steps, and resumes earlier work."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    # --- pauses ----------------------------------------------------------------------------------

    def start_pause(self, operation: Operation, key: object, reason: str | None) -> None:
        """Start the pause of ``key``. Pauses nest. ``reason`` replaces the message."""
        state, root = self._state, operation.root
        if state.is_interrupting():
            state.guard.defer(self.start_pause, operation, key, reason)
            return
        with state.lock:
            if root is None or root.status is not Status.RUNNING:
                return
            if operation.pauses is None:
                operation.pauses = Pauses()
            pauses, before = operation.pauses, root.message
            if pauses.includes(key):
                return
            pauses.start(key, state.clock(), before)
            if reason is not None:
                if before is not pauses.pause_message:
                    pauses.work_message = before
                root.message = pauses.pause_message = reason
            root.dirty = True

    def end_pause(self, operation: Operation, key: object, reason: str | None) -> None:
        """End the pause of ``key``, and restore the message before it. Idempotent.

        The outermost end resumes the operation.
        """
        state = self._state
        if state.is_interrupting():
            state.guard.defer(self.end_pause, operation, key, reason)
            return
        root, pauses = operation.root, operation.pauses
        with state.lock:
            if root is None or pauses is None or root.status is not Status.RUNNING:
                return
            root.dirty = True
            if pauses.includes(key) and reason is not None and root.message is reason:
                root.message = pauses.pause_message = pauses.get_message(key)
            if not pauses.is_outermost(key):
                pauses.end(key, state.clock())
                return
            # Why: pauses of several threads may end in any order, so the message before this one
            # can be another pause's message.
            if pauses.pause_message is not None:
                if root.message is pauses.pause_message:
                    root.message = pauses.work_message
                pauses.pause_message = pauses.work_message = None
            clock, since = state.clock(), pauses.since
            shift = [] if since is None else self._build_shift_locked(operation, since, clock)
            store_changes([*shift, *pauses.build_close(clock)])

    def _build_shift_locked(self, operation: Operation, since: float, clock: float) -> list[Change]:
        """Return the changes that move advances and estimates by the length of a pause."""
        changes: list[Change] = []
        for node in [node for node in self._state.tree.active if node.operation is operation]:
            node.dirty = True
            if node.advanced_clock is not None:
                changes.append((node, "advanced_clock", clock - max(0.0, since - node.advanced_clock)))
            estimation = node.estimation
            if estimation is not None and estimation.eta is not None:
                shifted = clock - max(0.0, since - estimation.eta.clock)
                changes.append((estimation, "eta", replace(estimation.eta, clock=shifted)))
        return changes

    # --- opaque steps ----------------------------------------------------------------------------

    def start_opaque(self, node: Node, key: object, expected: float | None, *, is_whole_level: bool) -> None:
        """Mark a running level as an opaque step of the block ``key``.

        ``expected`` is in seconds. ``is_whole_level`` is True when the level consists of the step
        only. A step within an opaque step changes nothing.
        """
        if self._state.is_interrupting():
            self._state.guard.defer(self._start_deferred_opaque, node, key, expected, is_whole_level)
            return
        # Why here: no thread may import it while it holds the lock.
        with defer_fork():
            import otel_progress.eta  # noqa: F401

        with self._state.lock:
            if node.status is not Status.RUNNING:
                return
            extras = node.ensure_extras()
            if extras.opaque is not None:
                extras.opaque.keys[key] = None
                return
            base, clock = _count_done_units(node), self._state.clock()
            extras.opaque = Opaque(clock, expected, base, is_whole_level=is_whole_level, key=key)
            self._state.estimates.track_opaque_locked(node)
            node.dirty = True

    def _start_deferred_opaque(
        self, node: Node, key: object, expected: float | None, is_whole_level: bool
    ) -> None:
        self.start_opaque(node, key, expected, is_whole_level=is_whole_level)

    def end_opaque(self, node: Node, key: object) -> None:
        """End the block ``key`` of an opaque step. Idempotent.

        After the last one the level has measured figures only.
        """
        if self._state.is_interrupting():
            self._state.guard.defer(self.end_opaque, node, key)
            return
        with self._state.lock:
            extras = node.extras
            if extras is None or extras.opaque is None:
                return
            extras.opaque.keys.pop(key, None)
            if not extras.opaque.keys:
                # Why first: the call is repeated when an exception interrupts it.
                node.dirty = node.has_advanced = True
                extras.opaque = None

    # --- sessions --------------------------------------------------------------------------------

    def resume_from(self, node: Node, current: Number) -> None:
        """Set the units that an earlier session completed.

        The curves of the level and its parents restart here.
        """
        state = self._state
        if state.is_interrupting():
            state.guard.defer(self.resume_from, node, current)
            return
        with state.lock:
            if node.status is not Status.RUNNING:
                return
            operation = node.operation
            operation.resumed_units = operation.resumed_units or {}
            operation.resumed_units[node.path] = current
            # Why: only children that end from now on count in addition.
            if node.children is not None:
                node.children.base_weight = node.children.done_weight
            node.ensure_counter().set(current)
            # Why: the earlier session counted these units in its metrics.
            node.counted_completed = max(node.counted_completed, current)
            state.restart_curve_locked(node)


def _count_done_units(node: Node) -> Number:
    """Return the units that a level counted, or the weight of its done children."""
    if node.counter is not None and node.counter.touched:
        return node.counter.value()
    return 0 if node.children is None else node.children.done_weight
