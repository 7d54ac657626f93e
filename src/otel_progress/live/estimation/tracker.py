"""Estimates of all running levels, and trajectories of ended levels.

Each level is estimated at most once per second, and never with the store's lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.live.estimation.bounds import (
    NO_BOUNDS,
    find_bounds_locked,
    is_bound_lower,
    is_refuted_locked,
    raise_eta,
)
from otel_progress.live.estimation.levels import get_level_shape, is_estimable
from otel_progress.live.estimation.opaque import compute_expected_duration
from otel_progress.live.estimation.request import EstimateRequest, build_request_locked, run_estimate
from otel_progress.live.estimation.scheduler import EstimateScheduler
from otel_progress.live.estimation.trajectories import (
    TrajectoryCache,
    collect_trajectories_locked,
)
from otel_progress.live.estimation_state import EstimationState
from otel_progress.live.figures import find_only_loop
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

    def observe_locked(self, node: Node) -> None:
        """Add a point to the level's curve from its last figures, and request an estimate."""
        estimation = self.track_locked(node)
        if estimation is None or node.status is not Status.RUNNING:
            return
        if estimation.has_loop or (node.parent is None and node.total is None):
            self._observe_loop_locked(node, estimation)
        if node.ratio is not None and not node.estimated:
            if estimation.restart_pending:
                self._restart_parents_locked(node)
            # Why not a clock of the caller: another thread may have updated the level later.
            clock = node.observed_clock
            active_s = node.operation.active_seconds(node.started_clock or clock, clock)
            estimation.add_point(active_s, node.ratio)
        if node.children is not None:
            estimation.recent_worker_counts.append(node.children.running)
        self._scheduler.request_locked(node, estimation)

    def _observe_loop_locked(self, node: Node, estimation: EstimationState) -> None:
        """Update whether an operation without a total consists of one loop."""
        loop = find_only_loop(node)
        if loop is None and estimation.has_loop:
            # Why: the ratio of the loop was not that of the whole operation.
            estimation.points.clear()
        estimation.has_loop = loop is not None
        if estimation.follows_loop and (loop is None or loop.status is not Status.RUNNING):
            estimation.follows_loop, estimation.eta = False, None

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
        changed: list[Node] = []
        count = 0
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
                changed += self._apply_result_locked(request, eta)
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
        if estimation.has_loop and not history:
            return None  # The estimate is that of the loop.
        request = build_request_locked(node, estimation, history, child_history, clock)
        # Why early: there are points, and their rate can be used after one second of work.
        is_early = len(estimation.points) > 1 and (request is None or len(request.points) < 2)
        if request is not None or is_early:
            self._scheduler.defer_locked(node, estimation, clock)
            estimation.has_new_data = is_early
        return request

    def _apply_result_locked(self, request: EstimateRequest, eta: Eta | None) -> list[Node]:
        """Store an estimate in its level, and raise the estimates of the levels above it.

        Return the levels whose estimates changed. An outdated estimate changes none.
        """
        node, estimation = request.node, request.estimation
        if node.status is not Status.RUNNING or node.estimation is not estimation or _is_paused(node):
            return []
        # Why: another thread may have made a newer estimate in the meantime.
        if estimation.estimated_clock is not None and request.clock < estimation.estimated_clock:
            return []
        clock, pauses = request.clock, node.operation.pauses
        if eta is not None:
            if pauses is not None:
                # Why: a pause may have started and ended since the request. It must not count down.
                clock += max(0.0, pauses.seconds_between(clock, self._clock()))
                eta = eta if clock == eta.clock else replace(eta, clock=clock)
            eta = raise_eta(eta, find_bounds_locked(node, clock), clock)
            if is_refuted_locked(node, eta, clock):
                eta = None
        if is_bound_lower(estimation.eta, eta, clock):
            self._request_parents_locked(node)
        changed = []
        if eta is not estimation.eta:
            _store_eta_locked(node, estimation, eta, estimation.origin + request.elapsed)
            changed.append(node)
        return changed + self._update_parents_locked(node, eta, clock)

    def _request_parents_locked(self, node: Node) -> None:
        """Request estimates of the levels above, which a former bound may have raised."""
        here = node.parent
        while here is not None:
            if here.estimation is not None:
                self._scheduler.request_locked(here, here.estimation)
            here = here.parent

    def _update_parents_locked(self, node: Node, eta: Eta | None, clock: float) -> list[Node]:
        """Raise the estimates of the levels above to the bound that ``eta`` implies.

        An operation without a history has the estimate of its only loop. Return the changed levels.
        """
        changed = []
        bounds = NO_BOUNDS.include(eta, clock)
        here = node.parent
        while here is not None:
            estimation = here.estimation
            if estimation is not None and here.status is Status.RUNNING:
                new = estimation.eta
                is_only_loop = estimation.has_loop and find_only_loop(here) is node
                if is_only_loop and not self._list_history_locked(here, estimation):
                    estimation.follows_loop, new = True, eta
                elif new is not None:
                    new = raise_eta(new, bounds, clock)
                if new is not estimation.eta:
                    active_s = here.operation.active_seconds(here.started_clock or clock, clock)
                    _store_eta_locked(here, estimation, new, active_s)
                    changed.append(here)
                    # Why: a stalled level stays at its raised bound. The level below counts down.
                    bounds = bounds.include(new, clock)
            here = here.parent
        return changed


def _store_eta_locked(node: Node, estimation: EstimationState, eta: Eta | None, active_s: float) -> None:
    """Store an estimate under a new sequence number.

    ``active_s`` are the active seconds of the level at the time of the estimate.
    """
    operation = node.operation
    estimation.eta = eta
    if eta is not None and node.parent is None:
        prediction = replace(eta, clock=active_s)
        estimation.predictions.add(prediction)
        if operation.overdue_after is None:
            operation.overdue_after = compute_overdue_threshold(prediction)
    node.snapshot = None
    operation.sequence = node.sequence = operation.sequence + 1


def _is_paused(node: Node) -> bool:
    pauses = node.operation.pauses
    return pauses is not None and pauses.since is not None
