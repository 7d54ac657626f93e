"""Estimates of the remaining time of received operations.

Senders do not send estimates. The receiver makes them from the reports, and from the history of the
journal. The history is that of all runs of the same type and service, also of processes that write
to the journal themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.eta import estimate
from otel_progress.eta.curves import shrink
from otel_progress.model import Eta, Status
from otel_progress.processes import host_class
from otel_progress.protocols import TrajectorySource
from otel_progress.records import Trajectory, TrajectoryEntry, TrajectoryKey

MAX_ESTIMATED_RUNS: Final = 10_000
"""Maximum number of running operations with estimates. The one that reported longest ago is dropped
first.
"""


MAX_CACHED_KEYS: Final = 1_000
"""Maximum number of kinds of runs whose history is stored. The least recently used is dropped."""


MAX_ESTIMATES_PER_REQUEST: Final = 100
"""Estimates that one request makes. Further operations keep their previous one."""


ESTIMATE_INTERVAL_S: Final = 2.0
"""Minimum time between two estimates of an operation, in seconds of its clock."""


HISTORY_INTERVAL_S: Final = 60.0
"""Time after which the history of a kind of runs is read again, in seconds of the sender."""


_MIN_OWN_RATE_S: Final = 1.0
"""Seconds of work before the rate of a run is used without history."""


_MAX_POINTS: Final = 128
"""Points of a run. Beyond it, half of them are dropped."""


@dataclass(slots=True)
class _RunCurve:
    """Progress of a running operation, and its estimate.

    ``points`` are pairs of elapsed seconds and ratio.
    """

    key: TrajectoryKey
    points: list[tuple[float, float]] = field(default_factory=list)
    eta: Eta | None = None
    estimated_at: float = float("-inf")

    def add(self, elapsed_s: float, ratio: float) -> None:
        """Add a point, unless it is older than the last one or not an advance."""
        last_s, last_ratio = self.points[-1] if self.points else (0.0, 0.0)
        if elapsed_s > last_s and ratio > last_ratio:
            self.points.append((elapsed_s, ratio))
        if len(self.points) > _MAX_POINTS:
            self.points = list(shrink(self.points, _MAX_POINTS // 2))


class ReceivedEstimates:
    """Curves and estimates of the received operations. Not thread-safe.

    ``source`` has the history, if there is one.
    """

    def __init__(self, source: TrajectorySource | None, *, max_runs: int = MAX_ESTIMATED_RUNS) -> None:
        self._source = source
        self._max_runs = max_runs
        self._runs: OrderedDict[str, _RunCurve] = OrderedDict()
        self._history: OrderedDict[TrajectoryKey, tuple[float, Sequence[Trajectory]]] = OrderedDict()
        self._left = MAX_ESTIMATES_PER_REQUEST

    def start_request(self) -> None:
        """Allow the estimates of another request."""
        self._left = MAX_ESTIMATES_PER_REQUEST

    def get(self, run: str) -> Eta | None:
        """Return the last estimate of a running operation."""
        curve = self._runs.get(run)
        return None if curve is None else curve.eta

    def update(
        self,
        run: str,
        operation_type: str,
        service: str,
        started_at: float,
        at: float,
        ratio: float | None,
        *,
        is_paused: bool = False,
    ) -> None:
        """Add a report of a running operation, and estimate its end if due.

        Times are Unix seconds on the clock of the sender. ``started_at`` is later by the seconds of
        the pauses, so it is the time to which the active seconds are relative. During a pause there
        is no estimate, and the first report after it makes one.
        """
        curve = self._runs.get(run)
        if curve is None:
            curve = self._runs[run] = _RunCurve(_build_key(operation_type, service))
            while len(self._runs) > self._max_runs:
                self._runs.popitem(last=False)
        self._runs.move_to_end(run)
        if is_paused:
            curve.eta, curve.estimated_at = None, float("-inf")
            return
        if ratio is not None:
            curve.add(at - started_at, ratio)
        if self._left > 0 and at - curve.estimated_at >= ESTIMATE_INTERVAL_S:
            self._left -= 1
            curve.estimated_at = at
            curve.eta = self._estimate(curve, started_at, at)

    def finish(self, run: str, status: Status, started_at: float, at: float) -> TrajectoryEntry | None:
        """Remove an operation that has ended. Return its history entry if it completed."""
        curve = self._runs.pop(run, None)
        duration_s = at - started_at
        if curve is None or status is not Status.COMPLETED or duration_s <= 0.0:
            return None
        points = [point for point in curve.points if point[0] < duration_s and point[1] < 1.0]
        points.append((duration_s, 1.0))
        self._history.pop(curve.key, None)
        return TrajectoryEntry(curve.key, run, at, Trajectory(duration_s, tuple(shrink(points))))

    def _estimate(self, curve: _RunCurve, started_at: float, at: float) -> Eta | None:
        history = self._load_history(curve.key, at)
        points = curve.points
        elapsed_s = max(at - started_at, points[-1][0] if points else 0.0)
        if not history and (not points or elapsed_s < _MIN_OWN_RATE_S):
            return None
        try:
            eta = estimate([(0.0, 0.0), *points] if points else [], elapsed_s, history)
        except Exception as error:
            report_internal_error("eta", "The end of a received operation cannot be estimated", error=error)
            return None
        if eta.state == "unknown":
            return None
        counts_down_s = eta.counts_down_s
        if counts_down_s is not None:
            counts_down_s = max(counts_down_s, ESTIMATE_INTERVAL_S)
        return replace(eta, clock=at, counts_down_s=counts_down_s)

    def _load_history(self, key: TrajectoryKey, at: float) -> Sequence[Trajectory]:
        """Return the history of a kind of runs, at most one minute old."""
        known = self._history.get(key)
        if known is not None and abs(at - known[0]) < HISTORY_INTERVAL_S:
            self._history.move_to_end(key)
            return known[1]
        found: Sequence[Trajectory] = ()
        if self._source is not None:
            try:
                found = self._source.trajectories(key)
            except JournalError as error:
                report_internal_error("history", "The history of received runs cannot be read", error=error)
        self._history[key] = (at, found)
        while len(self._history) > MAX_CACHED_KEYS:
            self._history.popitem(last=False)
        return found


def _build_key(operation_type: str, service: str) -> TrajectoryKey:
    # Why the host of the receiver: that of the sender is unknown, and others are used as well.
    return TrajectoryKey(operation_type, "", host_class(), f"service={service}")
