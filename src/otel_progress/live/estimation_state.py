"""Estimation state of a level: the curve of its ratio, and its current estimate."""

from __future__ import annotations

from collections import deque
from typing import Final

from otel_progress.live.predictions import Predictions
from otel_progress.model import Eta
from otel_progress.records import MAX_TRAJECTORY_POINTS, TrajectoryKey

MIN_ESTIMATE_INTERVAL_S: Final = 1.0
"""Shortest time between two estimates of one level, in seconds."""


KEPT_POINTS: Final = 48
"""Points that remain after a curve was thinned out. They preserve its shape."""


_MAX_WORKER_COUNTS: Final = 8


class EstimationState:
    """Data of a running level for estimates, and for its trajectory once it completed.

    Times are active seconds.
    """

    __slots__ = (
        "cooling_down",
        "estimated_clock",
        "eta",
        "follows_loop",
        "has_loop",
        "has_new_data",
        "key",
        "origin",
        "points",
        "predictions",
        "recent_worker_counts",
        "restart_pending",
    )

    def __init__(self, key: TrajectoryKey) -> None:
        self.key = key
        self.points: list[tuple[float, float]] = []
        """Points of the curve: active seconds since ``origin``, and ratio."""
        self.origin = 0.0
        """Start of the curve in active seconds since the level's start. It is later than 0 for
        resumed work.
        """
        self.restart_pending = False
        """True when the next point restarts the curve, because work was resumed."""
        self.eta: Eta | None = None
        self.estimated_clock: float | None = None
        """Time of the last estimate, in monotonic seconds."""
        self.has_loop = False
        """True when the curve is that of the operation's only loop."""
        self.follows_loop = False
        """True when the estimate is that of the operation's only loop."""
        self.cooling_down = False
        """True when the last estimate is less than ``MIN_ESTIMATE_INTERVAL_S`` old."""
        self.has_new_data = False
        """True when there is new data since the last estimate."""
        self.predictions = Predictions()
        self.recent_worker_counts: deque[int] = deque(maxlen=_MAX_WORKER_COUNTS)
        """Numbers of running children at the last ticks. Their maximum is the number of workers,
        because at each tick some workers are between two children.
        """

    def add_point(self, active_s: float, ratio: float) -> None:
        """Add a measured point.

        The curve starts at (0, 0), or at the first point of resumed work. Its times ascend. A point
        before the last one gets the time of the last one.
        """
        points = self.points
        if self.restart_pending:
            points.clear()
            self.restart_pending, self.origin = False, active_s
        elif not points and active_s > 0.0 and ratio > 0.0:
            points.append((0.0, 0.0))
        if points and points[-1][1] == ratio:
            return
        points.append((max(active_s - self.origin, points[-1][0] if points else 0.0), ratio))
        if len(points) > MAX_TRAJECTORY_POINTS:
            # Why here: the estimate of the first points has imported it, so this costs nothing.
            from otel_progress.eta import shrink

            self.points = shrink(points, KEPT_POINTS)
