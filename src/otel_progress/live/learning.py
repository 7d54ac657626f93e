"""What a level that ended leaves to its siblings, and an operation that completed to later runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from otel_progress.live.course import Course, trajectory
from otel_progress.live.lessons import MAX_RUNS
from otel_progress.live.node import Node
from otel_progress.model import Status
from otel_progress.observations import Lesson

MAX_KEYS: Final = 64
"""Kinds of levels of one operation that leave something; of each kind the last 20."""


def leave(node: Node, course: Course | None) -> Iterable[Lesson]:
    """Note the curve of a level that completed; return the lessons of an operation that did.

    Failed and cancelled runs leave nothing, nor do those that took up the work of an earlier session: their length says nothing.
    """
    operation = node.operation
    if node.status is not Status.COMPLETED or operation.resumed or course is None:
        return ()
    curve = trajectory(node, course)
    if node.parent is not None:
        curves = operation.curves
        if course.key in curves or len(curves) < MAX_KEYS:
            curves.setdefault(course.key, deque(maxlen=MAX_RUNS)).append(curve)
        return ()
    at = node.ended_at or 0.0
    lessons = [Lesson(course.key, operation.run, at, curve)]
    lessons += [Lesson(key, operation.run, at, one) for key, curves in operation.curves.items() for one in curves]
    operation.curves = {}
    return lessons
