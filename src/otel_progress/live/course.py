"""How a level has come along: the curve of its ratio over the time worked, and what is estimated from it."""

from __future__ import annotations

from collections import deque
from typing import Final

from otel_progress import semconv
from otel_progress.live.node import Node
from otel_progress.live.predictions import Predictions
from otel_progress.model import Eta, Status
from otel_progress.observations import HistoryKey, Trajectory
from otel_progress.text import segment

EVERY_S: Final = 1.0
"""Shortest time between two estimates of one level, in seconds."""
MAX_POINTS: Final = 64
"""Points kept of a curve."""
KEPT_POINTS: Final = 48
"""How many remain when it is full: those that keep its shape."""
_LOOKS: Final = 8


class Course:
    """What is kept of a running level to estimate from, and to learn from once it completed. Times are seconds of work."""

    __slots__ = ("asked", "eta", "key", "origin", "points", "predictions", "rebase", "resting", "running", "stale")

    def __init__(self, key: HistoryKey) -> None:
        self.key = key
        self.points: list[tuple[float, float]] = []
        """The (seconds, ratio) of the curve so far, from ``origin`` on."""
        self.origin = 0.0
        """Where the curve begins, in seconds of work since the level's start: later than 0 where earlier work was taken up."""
        self.rebase = False
        """Whether the next point is where this session took up the work of an earlier one: nothing before it counts."""
        self.eta: Eta | None = None
        self.asked: float | None = None
        """When it was last estimated (monotonic); ``resting`` says that this was less than a second ago, and ``stale`` that there is
        something new since."""
        self.resting = self.stale = False
        self.predictions = Predictions()
        self.running: deque[int] = deque(maxlen=_LOOKS)
        """How many levels ran below it at the last looks: between two of them a worker is always on its way to the next one."""

    def keep(self, worked: float, ratio: float) -> None:
        """Take a true point of the curve. It begins at nothing, or where the work of an earlier session was taken up."""
        points = self.points
        if self.rebase:
            points.clear()
            self.rebase, self.origin = False, worked
        elif not points and worked > 0.0 and ratio > 0.0:
            points.append((0.0, 0.0))
        if points and points[-1][1] == ratio:
            return
        points.append((worked - self.origin, ratio))
        if len(points) > MAX_POINTS:
            from otel_progress.eta import shrink  # loaded by now: it was estimated from the first points on

            self.points = shrink(points, KEPT_POINTS)


def shape(node: Node) -> str:
    """Return the place of a level in every tree of its kind: the types of its path, with the id for stages; empty for operations."""
    parts: list[str] = []
    here = node
    while here.parent is not None:
        kind = here.spec.type
        parts.append(segment(kind, here.id) if kind == semconv.STAGE else segment(kind, "")[:-1])
        here = here.parent
    return "/".join(reversed(parts))


def worth(node: Node) -> bool:
    """Tell whether a level is worth a course: an operation, a stage, or one with a total, levels below or a count."""
    spec = node.spec
    return (
        node.parent is None
        or spec.type == semconv.STAGE
        or node.total is not None
        or node.below is not None
        or node.counter is not None
        or node.opaque is not None
    )


def trajectory(node: Node, course: Course | None) -> Trajectory:
    """Return what a level that completed leaves to learn from: its length, its curve and the lengths of its stages, pauses left out."""
    duration = lasted(node)
    points = () if course is None else course.points
    kept = [(round(at, 6), round(ratio, 6)) for at, ratio in points if at < duration and ratio < 1.0][: MAX_POINTS - 1]
    return Trajectory(round(duration, 6), (*kept, (round(duration, 6), 1.0)) if kept else (), _stages(node))


def lasted(node: Node) -> float:
    """Return the seconds an ended level took, pauses left out."""
    start = node.started_clock or 0.0
    return node.operation.worked(start, start + (node.duration or 0.0))


def _stages(node: Node) -> dict[str, float]:
    below = node.below
    if below is None:
        return {}
    children = below.stages if below.stages is not None else list(below.nodes.values())
    return {
        child.id: round(lasted(child), 6)
        for child in children[:MAX_POINTS]
        if child.spec.type == semconv.STAGE and child.status is Status.COMPLETED
    }
