"""Pauses, opaque steps and resumed work of the live store.

They are rare, so each call takes the store's lock.
"""

from __future__ import annotations

from dataclasses import replace

from otel_progress.fork import defer_fork
from otel_progress.live.node import Node, Operation
from otel_progress.live.opaque import Opaque
from otel_progress.live.pauses import Pauses
from otel_progress.live.state import StoreState
from otel_progress.model import Number, Status


class Interruptions:
    """Pauses operations, marks opaque steps, and resumes earlier work."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    # --- pauses ----------------------------------------------------------------------------------

    def start_pause(self, operation: Operation, reason: str | None) -> str | None:
        """Pause an operation. Pauses nest. Return the message that ``reason`` replaces."""
        root = operation.root
        if self._state.is_interrupting():
            if root is None or root.status is not Status.RUNNING:
                return None
            self._state.guard.defer(self.start_pause, operation, reason)
            return root.message
        with self._state.lock:
            if root is None or root.status is not Status.RUNNING:
                return None
            if operation.pauses is None:
                operation.pauses = Pauses()
            pauses = operation.pauses
            pauses.start(self._state.clock())
            before = root.message
            if reason is not None:
                if before is not pauses.pause_message:
                    pauses.work_message = before
                root.message = pauses.pause_message = reason
            root.dirty = True
        return before

    def end_pause(self, operation: Operation, reason: str | None, before: str | None) -> None:
        """End one nested pause and restore the message ``before``.

        The outermost end resumes the operation.
        """
        if self._state.is_interrupting():
            self._state.guard.defer(self.end_pause, operation, reason, before)
            return
        root, pauses = operation.root, operation.pauses
        with self._state.lock:
            if root is None or pauses is None or root.status is not Status.RUNNING:
                return
            since, clock = pauses.since, self._state.clock()
            if reason is not None and root.message is reason:
                root.message = pauses.pause_message = before
            root.dirty = True
            if since is not None and pauses.end(clock) > 0.0:
                self._exclude_pause_locked(operation, since, clock)
            # Why: pauses of several threads may end in any order, so ``before`` can be another
            # pause's message.
            if pauses.since is None and pauses.pause_message is not None:
                if root.message is pauses.pause_message:
                    root.message = pauses.work_message
                pauses.pause_message = pauses.work_message = None

    def _exclude_pause_locked(self, operation: Operation, since: float, clock: float) -> None:
        """Move the last advances and estimates forward by the length of the pause."""
        for node in [node for node in self._state.tree.active if node.operation is operation]:
            node.dirty = True
            if node.advanced_clock is not None:
                node.advanced_clock = clock - max(0.0, since - node.advanced_clock)
            estimation = node.estimation
            if estimation is not None and estimation.eta is not None:
                shifted = clock - max(0.0, since - estimation.eta.clock)
                estimation.eta = replace(estimation.eta, clock=shifted)

    # --- opaque steps ----------------------------------------------------------------------------

    def start_opaque(self, node: Node, expected: float | None, *, is_whole_level: bool) -> bool:
        """Mark a running level as an opaque step. Return False when it does not run.

        ``expected`` is in seconds. ``is_whole_level`` is True when the level consists of the step
        only. A step within an opaque step changes nothing.
        """
        if self._state.is_interrupting():
            self._state.guard.defer(self._start_deferred_opaque, node, expected, is_whole_level)
            return node.status is Status.RUNNING
        # Why here: no thread may import it while it holds the lock.
        with defer_fork():
            import otel_progress.eta  # noqa: F401

        with self._state.lock:
            if node.status is not Status.RUNNING:
                return False
            extras = node.ensure_extras()
            if extras.opaque is not None:
                extras.opaque.depth += 1
                return True
            base = _count_done_units(node)
            extras.opaque = Opaque(self._state.clock(), expected, base, is_whole_level=is_whole_level)
            self._state.estimates.track_opaque_locked(node)
            node.dirty = True
        return True

    def _start_deferred_opaque(self, node: Node, expected: float | None, is_whole_level: bool) -> None:
        self.start_opaque(node, expected, is_whole_level=is_whole_level)

    def end_opaque(self, node: Node) -> None:
        """Remove the mark of an opaque step. The level then has measured figures only."""
        if self._state.is_interrupting():
            self._state.guard.defer(self.end_opaque, node)
            return
        with self._state.lock:
            extras = node.extras
            if extras is None or extras.opaque is None:
                return
            extras.opaque.depth -= 1
            if extras.opaque.depth <= 0:
                extras.opaque = None
                node.dirty = node.has_advanced = True

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
            node.ensure_counter().set(current)
            # Why: the earlier session counted these units in its metrics.
            node.counted_completed = max(node.counted_completed, current)
            now, clock = state.now(), state.clock()
            estimation = state.estimates.track_locked(node)
            if estimation is not None:
                estimation.restart_pending = True
            here: Node | None = node
            while here is not None:
                state.tree.update_level_locked(here, clock, now)
                state.estimates.observe_locked(here)
                here = here.parent


def _count_done_units(node: Node) -> Number:
    """Return the units that a level counted, or the weight of its done children."""
    if node.counter is not None and node.counter.touched:
        return node.counter.value()
    return 0 if node.children is None else node.children.done_weight
