"""Estimates of all running levels, and trajectories of ended levels.

Each level is estimated at most once per second, and never with the store's lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.live.estimation.levels import get_level_shape, is_estimable
from otel_progress.live.estimation.opaque import compute_expected_duration
from otel_progress.live.estimation.request import EstimateRequest, build_request_locked, run_estimate
from otel_progress.live.estimation.scheduler import EstimateScheduler
from otel_progress.live.estimation.trajectories import (
    TrajectoryCache,
    collect_trajectories_locked,
)
from otel_progress.live.estimation_state import EstimationState
from otel_progress.live.node import Node, Operation
from otel_progress.live.predictions import compute_overdue_threshold
from otel_progress.model import Eta, Status
from otel_progress.records import MAX_TRAJECTORIES_PER_KEY, Trajectory, TrajectoryEntry, TrajectoryKey

MAX_ESTIMATES_PER_TICK: Final = 50
"""Estimates per tick. The other levels wait for the next tick."""


MAX_CANDIDATES_PER_TICK: Final = 1_000
"""Levels that a tick checks for new data. The other levels wait for the next tick."""


MAX_ESTIMATED_LEVELS_PER_OPERATION: Final = 1_000
"""Tracked levels of one operation. Beyond it, levels get no estimate and leave no trajectory."""


MAX_ESTIMATED_LEVELS: Final = 10_000
"""Tracked levels of all operations, without the operations themselves. Beyond it, levels get no
estimate.
"""


OPAQUE_REFRESH_S: Final = 0.25
"""Shortest time between two updates of an opaque step, in seconds."""


class EstimateTracker:
    """Tracks all running levels for estimates. ``lock`` is the live store's."""

    def __init__(
        self,
        lock: AbstractContextManager[object],
        trajectories: TrajectoryCache,
        clock: Callable[[], float],
        *,
        max_estimates_per_tick: int = MAX_ESTIMATES_PER_TICK,
        max_levels_per_operation: int = MAX_ESTIMATED_LEVELS_PER_OPERATION,
    ) -> None:
        self.trajectories = trajectories
        self._lock = lock
        self._clock = clock
        self._max_estimates_per_tick = max_estimates_per_tick
        self._max_levels_per_operation = max_levels_per_operation
        self._tracked: dict[Node, None] = {}
        self._level_count = 0
        self._scheduler = EstimateScheduler()
        self._opaque: dict[Node, None] = {}
        self._was_full = False

    # --- tracking --------------------------------------------------------------------------------

    def track_locked(self, node: Node) -> EstimationState | None:
        """Return the estimation state of a running level.

        Create it if the level can be estimated, else return None.
        """
        estimation = node.estimation
        if estimation is not None or not is_estimable(node):
            return estimation
        operation = node.operation
        if node.parent is not None:
            is_full = operation.estimated_levels >= self._max_levels_per_operation
            if is_full or self._level_count >= MAX_ESTIMATED_LEVELS:
                self._was_full = True
                return None
            operation.estimated_levels += 1
            self._level_count += 1
        root = operation.root or node
        key = self.trajectories.request_key_locked(
            operation.type, get_level_shape(node), root.spec.eta_key, root.started_clock or 0.0
        )
        node.estimation = estimation = EstimationState(key)
        self._tracked[node] = None
        self._apply_trajectories_locked(node, estimation)
        return estimation

    def observe_locked(self, node: Node, clock: float) -> None:
        """Add a point to the level's curve from its last figures, and request an estimate."""
        estimation = self.track_locked(node)
        if estimation is None or node.status is not Status.RUNNING:
            return
        if node.ratio is not None and not node.estimated:
            if estimation.restart_pending:
                self._restart_parents_locked(node)
            active_s = node.operation.active_seconds(node.started_clock or clock, clock)
            estimation.add_point(active_s, node.ratio)
        if node.children is not None:
            estimation.recent_worker_counts.append(node.children.running)
        self._scheduler.request_locked(node, estimation)

    def _restart_parents_locked(self, node: Node) -> None:
        """Restart the curves of all parents, because resumed work is not an advance."""
        here = node.parent
        while here is not None:
            estimation = self.track_locked(here)
            if estimation is not None:
                estimation.restart_pending = True
            here = here.parent

    def finish_locked(self, node: Node) -> None:
        """Stop tracking a level that ended.

        A completed level leaves its trajectory to its siblings, a completed operation to later
        runs.
        """
        # Why: an operation may end before a tick tracks it, and its duration is still useful.
        if node.parent is None:
            self.track_locked(node)
        if node.estimation is None:
            return
        self.trajectories.add_locked(collect_trajectories_locked(node, node.estimation))
        self._drop_locked(node)
        if node.parent is None and node.operation.estimated_levels:
            self._drop_finished_locked(node.operation)

    def _drop_locked(self, node: Node) -> None:
        node.estimation = None
        self._tracked.pop(node, None)
        self._opaque.pop(node, None)
        self._scheduler.drop_locked(node)
        if node.parent is not None:
            node.operation.estimated_levels -= 1
            self._level_count -= 1

    def _drop_finished_locked(self, ended: Operation | None = None) -> None:
        """Drop evicted levels whose end no tick collected, and all of ``ended``."""
        for node in [
            node
            for node in self._tracked
            if node.operation is ended or (node.evicted and node.status.finished)
        ]:
            self._drop_locked(node)

    # --- opaque steps and trajectories -----------------------------------------------------------

    def track_opaque_locked(self, node: Node) -> None:
        """Start to estimate the progress of a level's opaque step."""
        self._opaque[node] = None
        estimation = self.track_locked(node)
        if estimation is not None:
            self._apply_trajectories_locked(node, estimation)
        self._extend_gaps_locked(node)

    def _apply_trajectories_locked(self, node: Node, estimation: EstimationState) -> None:
        """Apply past runs to the longest gap and the opaque step of a level."""
        node.longest_gap = max(node.longest_gap, self.trajectories.get_longest_gap_locked(estimation.key))
        step = node.opaque
        if step is not None:
            durations = [trajectory.duration_s for trajectory in self._list_history_locked(node, estimation)]
            active_s = node.operation.active_seconds(node.started_clock or step.since, step.since)
            step.expected = compute_expected_duration(step, durations, active_s, node.total)
            self._extend_gaps_locked(node)

    def _extend_gaps_locked(self, node: Node) -> None:
        """Extend the longest gaps of a level and its parents to its expected duration."""
        expected = None if node.opaque is None else node.opaque.expected
        here: Node | None = node
        while here is not None and expected is not None:
            here.longest_gap = max(here.longest_gap, expected)
            here = here.parent

    def _list_history_locked(self, node: Node, estimation: EstimationState) -> Sequence[Trajectory]:
        past_runs = self.trajectories.list_history_locked(estimation.key)
        siblings = (node.operation.trajectories or {}).get(estimation.key)
        return (*past_runs, *siblings)[-MAX_TRAJECTORIES_PER_KEY:] if siblings else past_runs

    def load_trajectories(
        self,
        load: Callable[[TrajectoryKey], Sequence[Trajectory]],
        persisted: Sequence[TrajectoryEntry] = (),
    ) -> None:
        """Load missing trajectories of past runs. Call it from a thread that may wait.

        ``persisted`` are entries that the journal has stored. A failed load is reported and retried
        later.
        """
        with self._lock:
            self.trajectories.mark_persisted_locked(persisted)
            keys, clock = self.trajectories.take_pending_keys_locked(), self._clock()
        for number, key in enumerate(keys):
            try:
                trajectories = load(key)
            except Exception as error:
                report_internal_error(
                    "history", "Past runs cannot be read; estimates continue without them", error=error
                )
                with self._lock:
                    self.trajectories.requeue_locked(keys[number:])
                return
            with self._lock:
                if self.trajectories.store_loaded_locked(key, trajectories, clock):
                    self._refresh_key_locked(key)

    def _refresh_key_locked(self, key: TrajectoryKey) -> None:
        for node in self._tracked:
            estimation = node.estimation
            if estimation is not None and estimation.key == key:
                self._apply_trajectories_locked(node, estimation)
                self._scheduler.request_now_locked(node)

    # --- estimates -------------------------------------------------------------------------------

    def refresh_opaque(self, clock: float) -> None:
        """Mark the levels whose opaque steps are due for an update as changed."""
        if not self._opaque:
            return
        with self._lock:
            for node in list(self._opaque):
                step = node.opaque
                if step is None or node.status is not Status.RUNNING:
                    del self._opaque[node]
                    continue
                is_due = clock - step.updated_clock >= OPAQUE_REFRESH_S
                if is_due and step.expected is not None and not _is_paused(node):
                    step.updated_clock, node.dirty = clock, True

    def estimate(self, clock: float, nodes: Iterable[Node] | None = None) -> list[Node]:
        """Estimate the due levels among ``nodes``, or among all.

        Return the levels with a new estimate.

        The lock must not be held.
        """
        changed, count = [], 0
        with self._lock:
            self._scheduler.release_due_locked(clock)
            if self._was_full and nodes is None:
                self._was_full = False
                self._drop_finished_locked()
        for _ in range(MAX_CANDIDATES_PER_TICK):
            with self._lock:
                node = self._scheduler.pop_next_locked(nodes)
                request = None if node is None else self._build_request_locked(node, clock)
            if node is None:
                break
            if request is None:
                continue
            eta = run_estimate(request)
            with self._lock:
                if self._apply_result_locked(request, eta):
                    changed.append(node)
            count += 1
            if count >= self._max_estimates_per_tick:
                break
        return changed

    def _build_request_locked(self, node: Node, clock: float) -> EstimateRequest | None:
        estimation = node.estimation
        if estimation is None or node.status is not Status.RUNNING or _is_paused(node):
            return None
        children = [] if node.children is None else reversed(node.children.nodes.values())
        child = next((child.estimation for child in children if child.estimation), None)
        child_history = () if child is None else self.trajectories.list_history_locked(child.key)
        history = self._list_history_locked(node, estimation)
        request = build_request_locked(node, estimation, history, child_history, clock)
        # Why early: there are points, and their rate can be used after one second of work.
        is_early = len(estimation.points) > 1 and (request is None or len(request.points) < 2)
        if request is not None or is_early:
            self._scheduler.defer_locked(node, estimation, clock)
            estimation.has_new_data = is_early
        return request

    def _apply_result_locked(self, request: EstimateRequest, eta: Eta | None) -> bool:
        """Store an estimate in its level, under a new sequence number.

        Return False when it is outdated or the same.
        """
        node, estimation, operation = request.node, request.estimation, request.node.operation
        if node.status is not Status.RUNNING or node.estimation is not estimation or _is_paused(node):
            return False
        if eta is estimation.eta:
            return False
        estimation.eta = eta
        if eta is not None and node.parent is None:
            prediction = replace(eta, clock=estimation.origin + request.elapsed)
            estimation.predictions.add(prediction)
            if operation.overdue_after is None:
                operation.overdue_after = compute_overdue_threshold(prediction)
        node.snapshot = None
        operation.sequence = node.sequence = operation.sequence + 1
        return True


def _is_paused(node: Node) -> bool:
    pauses = node.operation.pauses
    return pauses is not None and pauses.since is not None
