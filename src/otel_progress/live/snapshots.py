"""Snapshots of levels, built from the figures of their last update."""

from __future__ import annotations

from typing import Final

from otel_progress.construction import compile_constructor
from otel_progress.live.figures import counts_children
from otel_progress.live.node import Children, Node, Operation
from otel_progress.model import LevelInfo, LevelSnapshot, Number, Status

STALL_FACTOR: Final = 3.0
"""Multiple of its longest gap between advances after which a level is stalled."""


_NEVER_PAUSED: Final = (None, 0.0, 0, None)


_construct_snapshot: Final = compile_constructor(LevelSnapshot)


_construct_level_info: Final = compile_constructor(LevelInfo)


def take_snapshot_locked(node: Node) -> LevelSnapshot:
    """Return the snapshot of the node's last figures.

    It is cached until the next update.
    """
    if node.snapshot is None:
        node.snapshot = build_snapshot(node)
    return node.snapshot


def build_snapshot(node: Node) -> LevelSnapshot:
    """Build a snapshot of the node's last figures."""
    children = node.children
    return _construct_snapshot(
        node.info or _build_level_info(node),
        node.sequence,
        node.status,
        node.current,
        _get_shown_total(node, children),
        node.ratio,
        node.failed,
        node.skipped,
        node.message,
        node.metadata,
        node.error,
        None if children is None or children.stage is None else children.stage.id,
        node.estimation.eta if node.estimation is not None and node.status is Status.RUNNING else None,
        node.observed_at,
        node.observed_clock,
        node.advanced_at,
        node.advanced_clock,
        max(node.operation.stall_after, STALL_FACTOR * node.longest_gap),
        node.ended_at,
        node.duration,
        node.estimated,
        *(_get_operation_fields(node.operation) if node.parent is None else _get_pause_fields(node)),
        0 if node.operation.resumed_units is None else node.operation.resumed_units.get(node.path, 0),
        node.failed_below,
        node.ended_levels,
        node.operation.superseded_by if node.parent is None else None,
        node.parent is None and counts_children(node),
    )


def _get_shown_total(node: Node, children: Children | None) -> Number | None:
    """Return the total, or the number of stages of a level that counts its stages."""
    if node.total is not None or children is None or children.stages is None:
        return node.total
    return None if node.counter and node.counter.touched else len(children.stages)


def _get_operation_fields(operation: Operation) -> tuple[float | None, float, int, float | None]:
    """Return pause start, seconds of ended pauses, previews and overdue threshold."""
    pauses = operation.pauses
    if pauses is None:
        return None, 0.0, operation.previews, operation.overdue_after
    return pauses.since, pauses.ended_seconds, operation.previews, operation.overdue_after


def _get_pause_fields(node: Node) -> tuple[float | None, float, int, float | None]:
    """Return the same fields of a level. Only the seconds of its pauses are set."""
    pauses, start = node.operation.pauses, node.started_clock
    if pauses is None or start is None:
        return _NEVER_PAUSED
    if node.duration is not None:
        return None, pauses.seconds_between(start, start + node.duration), 0, None
    return None, max(0.0, pauses.ended_seconds - pauses.seconds_before(start)), 0, None


def _format_trace_id(operation: Operation, trace_id: int) -> str:
    """Return a trace id in hexadecimal.

    Cached, because nearly all levels have that of their operation.
    """
    if operation.trace is None or operation.trace[0] != trace_id:
        operation.trace = (trace_id, f"{trace_id:032x}")
    return operation.trace[1]


def _build_level_info(node: Node) -> LevelInfo:
    """Build and cache the fields that do not change until the end of a level."""
    operation, spec, trace = node.operation, node.spec, node.trace
    node.info = _construct_level_info(
        operation.id,
        operation.type,
        operation.run,
        node.path,
        spec.type,
        node.id,
        node.name,
        spec.unit,
        spec.weight,
        node.declared,
        node.attempt,
        node.order,
        node.started_at,
        node.started_clock,
        spec.deadline_at,
        None if trace is None else _format_trace_id(operation, trace[0]),
        None if trace is None else f"{trace[1]:016x}",
        operation.instance,
        spec.batch if node.parent is None else None,
        spec.unit_plural,
        spec.link if node.parent is None else None,
        node.parent is None and operation.is_id_given and operation.completed_work is None,
    )
    return node.info
