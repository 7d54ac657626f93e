"""How a level has come along: the curve of its ratio over the time worked, and what is estimated from it."""

from __future__ import annotations

from collections import deque
from typing import Final

from otel_progress.live.predictions import Predictions
from otel_progress.model import Eta
from otel_progress.records import TrajectoryKey

MIN_ESTIMATE_INTERVAL_S: Final = 1.0
"""Shortest time between two estimates of one level, in seconds."""


MAX_POINTS: Final = 64
"""Points kept of a curve."""


KEPT_POINTS: Final = 48
"""How many remain when it is full: those that keep its shape."""


_MAX_WORKER_COUNTS: Final = 8


class EstimationState:
    """What is kept of a running level to estimate from, and to learn from once it completed. Times are seconds of work."""

    __slots__ = (
        "cooling_down",
        "estimated_clock",
        "eta",
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
        """The (seconds, ratio) of the curve so far, from ``origin`` on."""
        self.origin = 0.0
        """Where the curve begins, in seconds of work since the level's start: later than 0 where earlier work was taken up."""
        self.restart_pending = False
        """Whether the next point is where this session took up the work of an earlier one: nothing before it counts."""
        self.eta: Eta | None = None
        self.estimated_clock: float | None = None
        """When it was last estimated (monotonic); ``resting`` says that this was less than a second ago, and ``stale`` that there is
        something new since."""
        self.cooling_down = self.has_new_data = False
        self.predictions = Predictions()
        self.recent_worker_counts: deque[int] = deque(maxlen=_MAX_WORKER_COUNTS)
        """How many levels ran below it at the last looks: between two of them a worker is always on its way to the next one."""

    def add_point(self, worked: float, ratio: float) -> None:
        """Take a true point of the curve. It begins at nothing, or where the work of an earlier session was taken up."""
        points = self.points
        if self.restart_pending:
            points.clear()
            self.restart_pending, self.origin = False, worked
        elif not points and worked > 0.0 and ratio > 0.0:
            points.append((0.0, 0.0))
        if points and points[-1][1] == ratio:
            return
        points.append((worked - self.origin, ratio))
        if len(points) > MAX_POINTS:
            from otel_progress.eta import shrink  # loaded by now: it was estimated from the first points on

            self.points = shrink(points, KEPT_POINTS)
