"""Trajectory of a level: its kind, its active duration and its curve."""

from __future__ import annotations

from otel_progress import semconv
from otel_progress.live.estimation_state import EstimationState
from otel_progress.live.node import Node
from otel_progress.model import Status
from otel_progress.records import MAX_TRAJECTORY_POINTS, Trajectory
from otel_progress.text import encode_segment


def get_level_shape(node: Node) -> str:
    """Return the path of a level without ids, except those of stages.

    It is empty for operations.
    """
    parts: list[str] = []
    here = node
    while here.parent is not None:
        type_ = here.spec.type
        is_stage = type_ == semconv.STAGE
        parts.append(encode_segment(type_, here.id) if is_stage else encode_segment(type_, "")[:-1])
        here = here.parent
    return "/".join(reversed(parts))


def is_estimable(node: Node) -> bool:
    """Return True for a level that may have an estimate.

    These are operations, stages, and levels with a total, a count, children or an opaque step. In
    operations of other processes, their owner estimates.
    """
    spec = node.spec
    return node.operation.share is None and (
        node.parent is None
        or spec.type == semconv.STAGE
        or node.total is not None
        or node.children is not None
        or node.counter is not None
        or node.opaque is not None
    )


def build_trajectory(node: Node, estimation: EstimationState | None) -> Trajectory:
    """Return the duration, curve and stage durations of a completed level."""
    duration = compute_active_duration(node)
    points = () if estimation is None else estimation.points
    curve = [(round(at, 6), round(ratio, 6)) for at, ratio in points if at < duration and ratio < 1.0]
    curve = curve[: MAX_TRAJECTORY_POINTS - 1]
    return Trajectory(
        round(duration, 6), (*curve, (round(duration, 6), 1.0)) if curve else (), _get_stage_durations(node)
    )


def compute_active_duration(node: Node) -> float:
    """Return the duration of an ended level without pauses, in seconds."""
    start = node.started_clock or 0.0
    return node.operation.active_seconds(start, start + (node.duration or 0.0))


def _get_stage_durations(node: Node) -> dict[str, float]:
    if node.children is None:
        return {}
    stages = node.children.stages
    children = stages if stages is not None else list(node.children.nodes.values())
    return {
        child.id: round(compute_active_duration(child), 6)
        for child in children[:MAX_TRAJECTORY_POINTS]
        if child.spec.type == semconv.STAGE and child.status is Status.COMPLETED
    }
