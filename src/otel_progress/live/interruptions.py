"""What the work says of itself beside counting: that it is paused, that a step cannot report, that part of it was done before.

Rare, so each takes the store's lock; ``Interruptions`` is made by the live store and shares its lock and tree.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from otel_progress.fork import defer_fork
from otel_progress.live.estimation.tracker import EstimateTracker
from otel_progress.live.node import Node, Operation
from otel_progress.live.opaque import Opaque
from otel_progress.live.pauses import Pauses
from otel_progress.live.tree import Tree
from otel_progress.model import Number, Status


class Interruptions:
    """Pauses operations, marks opaque steps, and takes up the work of an earlier session."""

    def __init__(
        self,
        lock: AbstractContextManager[object],
        tree: Tree,
        estimates: EstimateTracker,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._lock = lock
        self._tree = tree
        self._estimates = estimates
        self._clock = clock
        self._now = now

    # --- pauses -------------------------------------------------------------------------------------------------

    def start_pause(self, operation: Operation, reason: str | None) -> str | None:
        """Pause an operation, or pause it once more; return the message it had, which ``reason`` takes the place of."""
        root = operation.root
        with self._lock:
            if root is None or root.status is not Status.RUNNING:
                return None
            if operation.pauses is None:
                operation.pauses = Pauses()
            pauses = operation.pauses
            pauses.begin(self._clock())
            before = root.message
            if reason is not None:
                if before is not pauses.pause_message:
                    pauses.work_message = before
                root.message = pauses.pause_message = reason
            root.dirty = True
        return before

    def end_pause(self, operation: Operation, reason: str | None, before: str | None) -> None:
        """Take back one pause; with the last one the work goes on. The message ``reason`` gives way to the one before."""
        root, pauses = operation.root, operation.pauses
        with self._lock:
            if root is None or pauses is None or root.status is not Status.RUNNING:
                return
            since, clock = pauses.since, self._clock()
            if reason is not None and root.message is reason:
                root.message = pauses.pause_message = before
            root.dirty = True
            if since is not None and pauses.end(clock) > 0.0:
                self._exclude_pause(operation, since, clock)
            if (
                pauses.since is None and pauses.pause_message is not None
            ):  # those of several threads end in any order
                if root.message is pauses.pause_message:
                    root.message = pauses.work_message
                pauses.pause_message = pauses.work_message = None

    def _exclude_pause(self, operation: Operation, since: float, clock: float) -> None:
        """Move what is measured from the past to now as if the pause had not been: last advances and estimates."""
        for node in [node for node in self._tree.active if node.operation is operation]:
            node.dirty = True  # its snapshot has the pauses that are over
            if node.advanced_clock is not None:
                node.advanced_clock = clock - max(0.0, since - node.advanced_clock)
            course = node.estimation
            if course is not None and course.eta is not None:
                course.eta = replace(course.eta, clock=clock - max(0.0, since - course.eta.clock))
            node.dirty = True

    # --- opaque steps -------------------------------------------------------------------------------------------

    def start_opaque(self, node: Node, expected: float | None, *, whole: bool) -> bool:
        """Mark a running level as an opaque step; False when it does not run.

        ``expected`` is in seconds; ``whole`` says that the step is all there is to the level. A step within one changes nothing.
        """
        with defer_fork():
            import otel_progress.eta  # noqa: F401 - here, so that nobody imports it while the lock is held

        with self._lock:
            if node.status is not Status.RUNNING:
                return False
            if node.opaque is not None:
                node.opaque.depth += 1
                return True
            node.opaque = Opaque(self._clock(), expected, _done(node), whole=whole)
            self._estimates.track_opaque(node)
            node.dirty = True
        return True

    def end_opaque(self, node: Node) -> None:
        """Take the mark back: from then on only what is true is shown."""
        with self._lock:
            step = node.opaque
            if step is None:
                return
            step.depth -= 1
            if step.depth <= 0:
                node.opaque = None
                node.dirty = node.has_advanced = True

    # --- sessions -----------------------------------------------------------------------------------------------

    def resume_from(self, node: Node, current: Number) -> None:
        """Set what an earlier session had done; the curves of the level and of all above it begin here."""
        with self._lock:
            if node.status is not Status.RUNNING:
                return
            operation = node.operation
            operation.resumed = True
            operation.resumed_units = operation.resumed_units or {}
            operation.resumed_units[node.path] = current
            node.ensure_counter().set(current)
            node.counted_completed = max(
                node.counted_completed, current
            )  # those units were counted when they were done
            clock, now = self._clock(), self._now()
            course = self._estimates.follow(node)
            if course is not None:
                course.restart_pending = True
            here: Node | None = node
            while here is not None:
                self._tree.update_figures(here, clock, now)
                self._estimates.observe(here, clock)
                here = here.parent


def _done(node: Node) -> Number:
    """Return the units a level has done by now."""
    if node.counter is not None and node.counter.touched:
        return node.counter.value()
    return 0 if node.children is None else node.children.done_weight
