"""Which of the records that are kept an answer has: by place, severity, outcome, moment and number. Pure."""

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
    """Return the newest ``limit`` previews of a level and of what is below it, up to number ``upto``, in their order."""
    if upto is not None:
        previews = [one for one in previews if one.number <= upto]
    if path:
        previews = [one for one in previews if one.path == path or one.path.startswith(f"{path}/")]
    return list(previews[-limit:]) if limit > 0 else []


T = TypeVar("T")


def filter_events(
    kept: Iterable[Event],
    level: str | None,
    outcome: Outcome | None,
    since: float | None,
    upto: int | None,
    limit: int,
) -> Sequence[Event]:
    """Return the newest ``limit`` of the events that match, oldest first; ``level`` takes in what is below it."""
    found = [
        event
        for event in sorted(kept, key=lambda event: event.number)
        if _is_at_or_below(event.path, level)
        and (outcome is None or event.outcome is outcome)
        and (since is None or event.at >= since)
        and (upto is None or event.number <= upto)
    ]
    return _newest(found, limit)


def filter_logs(
    kept: Iterable[LogRecord],
    path: str | None,
    severity: int,
    since: float | None,
    after: int,
    upto: int | None,
    limit: int,
) -> Sequence[LogRecord]:
    """Return the newest ``limit`` of the records that match, in the order given; ``path`` takes in what is below it."""
    found = [
        record
        for record in kept
        if _is_at_or_below(record.path, path)
        and record.severity >= severity
        and record.number > after
        and (upto is None or record.number <= upto)
        and (since is None or record.at >= since)
    ]
    return _newest(found, limit)


def filter_samples(
    kept: Iterable[ResourceSample], root: Node | None, since: float | None, upto: float | None, limit: int
) -> Sequence[ResourceSample]:
    """Return the newest ``limit`` of the samples taken while an operation ran, and up to ``upto`` on its clock, in the order given."""
    if root is None or root.started_clock is None:
        return []
    start, end = root.started_clock, math.inf if root.duration is None else root.started_clock + root.duration
    end = end if upto is None else min(end, upto)
    return _newest(
        [one for one in kept if start <= one.clock <= end and (since is None or one.at >= since)], limit
    )


def filter_ended(
    views: Iterable[OperationSnapshot], before: tuple[float, str] | None, since: float | None, limit: int
) -> Sequence[OperationSnapshot]:
    """Return the first ``limit`` of the ended operations that match, the last one first."""
    found = [
        view
        for view in sorted(views, key=_ending, reverse=True)
        if (before is None or _ending(view) < before)
        and (since is None or (view.root.ended_at or 0.0) >= since)
    ]
    return found[: max(0, limit)]


def _ending(operation: OperationSnapshot) -> tuple[float, str]:
    return operation.root.ended_at or 0.0, operation.run


def _is_at_or_below(path: str, above: str | None) -> bool:
    return not above or path == above or path.startswith(above + "/")


def _newest(found: list[T], limit: int) -> Sequence[T]:
    return found[-limit:] if limit > 0 else []
