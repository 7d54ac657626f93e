"""Filters of records by path, severity, outcome, time and number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from otel_progress.live.node import Node
from otel_progress.model import Outcome
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.records import LogRecord, Preview, ResourceSample


def filter_previews(
    previews: Sequence[Preview], path: str | None, upto: int | None, limit: int
) -> Sequence[Preview]:
    """Return the newest ``limit`` previews of a level and the levels below it."""
    if upto is not None:
        previews = [preview for preview in previews if preview.number <= upto]
    if path:
        previews = [preview for preview in previews if _is_at_or_below(preview.path, path)]
    return list(previews[-limit:]) if limit > 0 else []


T = TypeVar("T")


def filter_events(
    events: Iterable[Event],
    level: str | None,
    outcome: Outcome | None,
    since: float | None,
    upto: int | None,
    limit: int,
) -> Sequence[Event]:
    """Return the newest ``limit`` matching events, oldest first.

    Events of the levels below ``level`` match, too.
    """
    matching = [
        event
        for event in sorted(events, key=lambda event: event.number)
        if _is_at_or_below(event.path, level)
        and (outcome is None or event.outcome is outcome)
        and (since is None or event.at >= since)
        and (upto is None or event.number <= upto)
    ]
    return _take_newest(matching, limit)


def filter_logs(
    records: Iterable[LogRecord],
    path: str | None,
    severity: int,
    since: float | None,
    after: int,
    upto: int | None,
    limit: int,
) -> Sequence[LogRecord]:
    """Return the newest ``limit`` matching records, in the given order.

    Records below ``path`` match, too.
    """
    matching = [
        record
        for record in records
        if _is_at_or_below(record.path, path)
        and record.severity >= severity
        and record.number > after
        and (upto is None or record.number <= upto)
        and (since is None or record.at >= since)
    ]
    return _take_newest(matching, limit)


def filter_samples(
    samples: Iterable[ResourceSample], root: Node | None, since: float | None, upto: float | None, limit: int
) -> Sequence[ResourceSample]:
    """Return the newest ``limit`` samples during an operation, up to ``upto``."""
    if root is None or root.started_clock is None:
        return []
    start, end = root.started_clock, math.inf if root.duration is None else root.started_clock + root.duration
    end = end if upto is None else min(end, upto)
    return _take_newest(
        [
            sample
            for sample in samples
            if start <= sample.clock <= end and (since is None or sample.at >= since)
        ],
        limit,
    )


def filter_ended(
    operations: Iterable[OperationSnapshot], before: tuple[float, str] | None, since: float | None, limit: int
) -> Sequence[OperationSnapshot]:
    """Return the first ``limit`` matching ended operations, the last ended one first."""
    matching = [
        operation
        for operation in sorted(operations, key=_get_end_key, reverse=True)
        if (before is None or _get_end_key(operation) < before)
        and (since is None or (operation.root.ended_at or 0.0) >= since)
    ]
    return matching[: max(0, limit)]


def _get_end_key(operation: OperationSnapshot) -> tuple[float, str]:
    return operation.root.ended_at or 0.0, operation.run


def _is_at_or_below(path: str, above: str | None) -> bool:
    return not above or path == above or path.startswith(above + "/")


def _take_newest(records: list[T], limit: int) -> Sequence[T]:
    return records[-limit:] if limit > 0 else []
