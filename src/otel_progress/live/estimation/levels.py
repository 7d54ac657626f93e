"""levels."""

from __future__ import annotations

from otel_progress import semconv
from otel_progress.live.estimation_state import MAX_POINTS, EstimationState
from otel_progress.live.node import Node
from otel_progress.model import Status
from otel_progress.records import Trajectory
from otel_progress.text import encode_segment


def level_shape(node: Node) -> str:
    """Return the place of a level in every tree of its kind: the types of its path, with the id for stages; empty for operations."""
    parts: list[str] = []
    here = node
    while here.parent is not None:
        kind = here.spec.type
        parts.append(
            encode_segment(kind, here.id) if kind == semconv.STAGE else encode_segment(kind, "")[:-1]
        )
        here = here.parent
    return "/".join(reversed(parts))


def is_estimable(node: Node) -> bool:
    """Tell whether a level is worth a course: an operation, a stage, or one with a total, levels below or a count."""
    spec = node.spec
    return (
        node.parent is None
        or spec.type == semconv.STAGE
        or node.total is not None
        or node.children is not None
        or node.counter is not None
        or node.opaque is not None
    )


def build_trajectory(node: Node, course: EstimationState | None) -> Trajectory:
    """Return what a level that completed leaves to learn from: its length, its curve and the lengths of its stages, pauses left out."""
    duration = active_duration(node)
    points = () if course is None else course.points
    kept = [(round(at, 6), round(ratio, 6)) for at, ratio in points if at < duration and ratio < 1.0][
        : MAX_POINTS - 1
    ]
    return Trajectory(round(duration, 6), (*kept, (round(duration, 6), 1.0)) if kept else (), _stages(node))


def active_duration(node: Node) -> float:
    """Return the seconds an ended level took, pauses left out."""
    start = node.started_clock or 0.0
    return node.operation.active_seconds(start, start + (node.duration or 0.0))


def _stages(node: Node) -> dict[str, float]:
    below = node.children
    if below is None:
        return {}
    children = below.stages if below.stages is not None else list(below.nodes.values())
    return {
        child.id: round(active_duration(child), 6)
        for child in children[:MAX_POINTS]
        if child.spec.type == semconv.STAGE and child.status is Status.COMPLETED
    }
