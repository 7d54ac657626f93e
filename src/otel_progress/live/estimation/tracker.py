"""The courses of all running levels: points taken on the tick, estimates made of them, and what ended levels leave.

An estimate is made once a second a level at most, and never with the store's lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.live.estimation.levels import is_estimable, level_shape
from otel_progress.live.estimation.opaque import expected_duration
from otel_progress.live.estimation.request import EstimateRequest, build_request, run_estimate
from otel_progress.live.estimation.scheduler import EstimateScheduler
from otel_progress.live.estimation.trajectories import (
    MAX_TRAJECTORIES_PER_KEY,
    TrajectoryCache,
    collect_trajectories,
)
from otel_progress.live.estimation_state import EstimationState
from otel_progress.live.node import Node, Operation
from otel_progress.live.predictions import overdue_threshold
from otel_progress.model import Eta, Status
from otel_progress.records import Trajectory, TrajectoryEntry, TrajectoryKey

MAX_ESTIMATES_PER_TICK: Final = 50
"""Estimates a tick makes; who does not get a turn waits for the next one."""


MAX_CANDIDATES_PER_TICK: Final = 1_000
"""Levels a tick looks at for something to make an estimate from."""


MAX_ESTIMATED_LEVELS_PER_OPERATION: Final = 1_000
"""Levels of one operation that are followed at a time; of the others there is no estimate, and they do not teach."""


MAX_ESTIMATED_LEVELS: Final = 10_000
"""Levels of all operations that are followed at a time, operations themselves left out."""


OPAQUE_REFRESH_S: Final = 0.25
"""Shortest time between two looks at an opaque step, in seconds."""


class EstimateTracker:
    """The courses of all running levels. ``lock`` is the live store's: methods that say so are called with it held."""

    def __init__(
        self, lock: AbstractContextManager[object], book: TrajectoryCache, clock: Callable[[], float]
    ) -> None:
        self.trajectories = book
        self._lock = lock
        self._clock = clock
        self._followed: dict[Node, None] = {}
        self._levels = 0
        self._scheduler = EstimateScheduler()
        self._opaque: dict[Node, None] = {}
        self._full = False

    # --- following: with the lock held -------------------------------------------------------------------------

    def follow(self, node: Node) -> EstimationState | None:
        """Return the course of a running level, beginning it when it is worth one; None when it is not."""
        course = node.estimation
        if course is not None or not is_estimable(node):
            return course
        operation = node.operation
        if node.parent is not None:
            if (
                operation.estimated_levels >= MAX_ESTIMATED_LEVELS_PER_OPERATION
                or self._levels >= MAX_ESTIMATED_LEVELS
            ):
                self._full = True
                return None
            operation.estimated_levels += 1
            self._levels += 1
        root = operation.root or node
        key = self.trajectories.key(
            operation.type, level_shape(node), root.spec.eta_key, root.started_clock or 0.0
        )
        node.estimation = course = EstimationState(key)
        self._followed[node] = None
        self._apply_trajectories(node, course)
        return course

    def observe(self, node: Node, clock: float) -> None:
        """Take a point of the level's curve from the figures just measured, and have it estimated when its second is over."""
        course = self.follow(node)
        if course is None or node.status is not Status.RUNNING:
            return
        if node.ratio is not None and not node.estimated:
            if course.restart_pending:
                self._rebase(node)
            course.add_point(node.operation.active_seconds(node.started_clock or clock, clock), node.ratio)
        if node.children is not None:
            course.recent_worker_counts.append(node.children.running)
        self._scheduler.request(node, course)

    def _rebase(self, node: Node) -> None:
        """Let the curves of all above begin anew: what an earlier session did is no advance of theirs either."""
        here = node.parent
        while here is not None:
            course = self.follow(here)
            if course is not None:
                course.restart_pending = True
            here = here.parent

    def finish(self, node: Node) -> None:
        """Let go of a level that ended; one that completed leaves its curve to its siblings, an operation that did to later runs."""
        if (
            node.parent is None
        ):  # it may be over before a tick saw it; how long it took is worth knowing all the same
            self.follow(node)
        if node.estimation is None:
            return
        self.trajectories.add(collect_trajectories(node, node.estimation))
        self._drop(node)
        if node.parent is None and node.operation.estimated_levels:
            self._drop_finished(node.operation)

    def _drop(self, node: Node) -> None:
        node.estimation = None
        self._followed.pop(node, None)
        self._opaque.pop(node, None)
        self._scheduler.drop(node)
        if node.parent is not None:
            node.operation.estimated_levels -= 1
            self._levels -= 1

    def _drop_finished(self, ended: Operation | None = None) -> None:
        """Let go of levels that ended unseen (entered again, or let go before a tick took them), and of all of an operation's."""
        for node in [
            one for one in self._followed if one.operation is ended or (one.evicted and one.status.finished)
        ]:
            self._drop(node)

    def track_opaque(self, node: Node) -> None:
        """Begin to show the progress of a level's opaque step."""
        self._opaque[node] = None
        course = self.follow(node)
        if course is not None:
            self._apply_trajectories(node, course)
        self._propagate_gap(node)

    def _apply_trajectories(self, node: Node, course: EstimationState) -> None:
        """Take over what past runs say of a level: how long nothing may happen, and how long an opaque step takes."""
        node.longest_gap = max(node.longest_gap, self.trajectories.longest_gap(course.key))
        step = node.opaque
        if step is not None:
            durations = [trajectory.duration_s for trajectory in self._history(node, course)]
            worked = node.operation.active_seconds(node.started_clock or step.since, step.since)
            step.expected = expected_duration(step, durations, worked, node.total)
            self._propagate_gap(node)

    def _propagate_gap(self, node: Node) -> None:
        """Let everything above an opaque step know how long it may be silent."""
        expected = None if node.opaque is None else node.opaque.expected
        here: Node | None = node
        while here is not None and expected is not None:
            here.longest_gap = max(here.longest_gap, expected)
            here = here.parent

    def _history(self, node: Node, course: EstimationState) -> Sequence[Trajectory]:
        known = self.trajectories.history(course.key)
        siblings = node.operation.trajectories.get(course.key)
        return (*known, *siblings)[-MAX_TRAJECTORIES_PER_KEY:] if siblings else known

    # --- what past runs left ------------------------------------------------------------------------------------

    def load_trajectories(
        self, ask: Callable[[TrajectoryKey], Sequence[Trajectory]], saved: Sequence[TrajectoryEntry] = ()
    ) -> None:
        """Ask for what is not known yet; called from a thread that may wait. Failures are counted, and asked again later.

        ``saved`` are lessons that whoever is asked has by now.
        """
        with self._lock:
            self.trajectories.mark_persisted(saved)
            keys, clock = self.trajectories.take_pending_keys(), self._clock()
        for number, key in enumerate(keys):
            try:
                found = ask(key)
            except Exception as error:
                report_internal_error(
                    "history", "what past runs left cannot be read; estimates go without it", error=error
                )
                with self._lock:
                    self.trajectories.requeue(keys[number:])
                return
            with self._lock:
                if self.trajectories.load(key, found, clock):
                    self._renew(key)

    def _renew(self, key: TrajectoryKey) -> None:
        for node in self._followed:
            course = node.estimation
            if course is not None and course.key == key:
                self._apply_trajectories(node, course)
                self._scheduler.request_now(node)

    # --- on the tick, and for readers ---------------------------------------------------------------------------

    def refresh_opaque(self, clock: float) -> None:
        """Have the levels measured again whose opaque steps were not looked at for a while."""
        if not self._opaque:
            return
        with self._lock:
            for node in list(self._opaque):
                step = node.opaque
                if step is None or node.status is not Status.RUNNING:
                    del self._opaque[node]
                elif (
                    clock - step.looked >= OPAQUE_REFRESH_S
                    and step.expected is not None
                    and not _paused(node)
                ):
                    step.looked, node.dirty = clock, True

    def estimate(self, clock: float, nodes: Iterable[Node] | None = None) -> list[Node]:
        """Estimate what is due, of ``nodes`` or of all; return the levels whose estimate is new. The lock must not be held."""
        changed, asked = [], 0
        with self._lock:
            self._scheduler.release_due(clock)
            if self._full and nodes is None:
                self._full = False
                self._drop_finished()
        for _ in range(MAX_CANDIDATES_PER_TICK):
            with self._lock:
                node = self._scheduler.pop_next(nodes)
                asking = None if node is None else self._build_request(node, clock)
            if node is None:
                break
            if asking is None:
                continue
            eta = run_estimate(asking)
            with self._lock:
                if self._apply_result(asking, eta):
                    changed.append(node)
            asked += 1
            if asked >= MAX_ESTIMATES_PER_TICK:
                break
        return changed

    def _build_request(self, node: Node, clock: float) -> EstimateRequest | None:
        course = node.estimation
        if course is None or node.status is not Status.RUNNING or _paused(node):
            return None
        child = (
            None
            if node.children is None
            else next(
                (one.estimation for one in reversed(node.children.nodes.values()) if one.estimation), None
            )
        )
        known = () if child is None else self.trajectories.history(child.key)
        asking = build_request(node, course, self._history(node, course), known, clock)
        early = len(course.points) > 1 and (
            asking is None or len(asking.points) < 2
        )  # its pace says nothing yet, but soon will
        if asking is not None or early:
            self._scheduler.defer(node, course, clock)
            course.has_new_data = early
        return asking

    def _apply_result(self, asking: EstimateRequest, eta: Eta | None) -> bool:
        """Take an answer over: from then on the level has it, under a sequence number of its own."""
        node, course, operation = asking.node, asking.course, asking.node.operation
        if (
            node.status is not Status.RUNNING
            or node.estimation is not course
            or _paused(node)
            or eta is course.eta
        ):
            return False
        course.eta = eta
        if eta is not None and node.parent is None:
            worked = course.origin + asking.elapsed
            foretold = replace(eta, clock=worked)
            course.predictions.add(foretold)
            if operation.overdue_after is None:
                operation.overdue_after = overdue_threshold(foretold)
        node.snapshot = None
        operation.sequence = node.sequence = operation.sequence + 1
        return True


def _paused(node: Node) -> bool:
    pauses = node.operation.pauses
    return pauses is not None and pauses.since is not None
