"""Filters of stored records by path, severity, outcome, time and number.

Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from otel_progress.live.node import Node
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.protocols import EventQuery, HistoryQuery, LogQuery, PreviewQuery, ResourceQuery
from otel_progress.records import LogRecord, Preview, ResourceSample

T = TypeVar("T")


def filter_events(events: Iterable[Event], query: EventQuery) -> Sequence[Event]:
    """Return the newest matching events, sorted by number."""
    matching = [
        event
        for event in sorted(events, key=lambda event: event.number)
        if _is_in_subtree(event.path, query.path)
        and (query.outcome is None or event.outcome is query.outcome)
        and (query.since is None or event.at >= query.since)
        and (query.max_number is None or event.number <= query.max_number)
    ]
    return _get_newest(matching, query.limit)


def filter_logs(records: Iterable[LogRecord], query: LogQuery) -> Sequence[LogRecord]:
    """Return the newest matching log records in their given order."""
    matching = [
        record
        for record in records
        if _is_in_subtree(record.path, query.path)
        and (query.severity == 0 or record.severity >= query.severity)
        and record.number > query.after
        and (query.max_number is None or record.number <= query.max_number)
        and (query.since is None or record.at >= query.since)
    ]
    return _get_newest(matching, query.limit)


def filter_previews(previews: Iterable[Preview], query: PreviewQuery) -> Sequence[Preview]:
    """Return the newest matching previews in their given order."""
    matching = [
        preview
        for preview in previews
        if _is_in_subtree(preview.path, query.path)
        and (query.max_number is None or preview.number <= query.max_number)
    ]
    return _get_newest(matching, query.limit)


def filter_samples(
    samples: Iterable[ResourceSample], root: Node | None, query: ResourceQuery
) -> Sequence[ResourceSample]:
    """Return the newest matching samples of an operation in their given order."""
    if root is None or root.started_clock is None:
        return []
    start = root.started_clock
    end = math.inf if root.duration is None else start + root.duration
    if query.max_clock is not None:
        end = min(end, query.max_clock)
    matching = [
        sample
        for sample in samples
        if start <= sample.clock <= end and (query.since is None or sample.at >= query.since)
    ]
    return _get_newest(matching, query.limit)


def filter_history(
    operations: Iterable[OperationSnapshot], query: HistoryQuery
) -> Sequence[OperationSnapshot]:
    """Return the matching ended operations, the last one first."""
    matching = [
        operation
        for operation in sorted(operations, key=_get_end, reverse=True)
        if (query.operation_type is None or operation.operation_type == query.operation_type)
        and (query.before is None or _get_end(operation) < query.before)
        and (query.since is None or (operation.root.ended_at or 0.0) >= query.since)
    ]
    return matching[: query.limit]


def _get_end(operation: OperationSnapshot) -> tuple[float, str]:
    return operation.root.ended_at or 0.0, operation.run


def _is_in_subtree(path: str, subtree: str | None) -> bool:
    return not subtree or path == subtree or path.startswith(subtree + "/")


def _get_newest(records: list[T], limit: int) -> Sequence[T]:
    return records[-limit:] if limit > 0 else []
