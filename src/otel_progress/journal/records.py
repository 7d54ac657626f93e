"""Reads events, log records, previews and samples out of an open journal. Every function runs within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from otel_progress.journal import previews as kept
from otel_progress.journal import queries, rows
from otel_progress.journal.fetching import fetch
from otel_progress.journal.liveness import Moment
from otel_progress.journal.rows import EVENT, LOG
from otel_progress.journal.texts import SAMPLE
from otel_progress.model import Outcome
from otel_progress.observations import LogRecord, Preview, ResourceSample
from otel_progress.operations import Event

_NEWEST_RUN: Final = "SELECT key, operation_type, run FROM operations WHERE operation_id = ? ORDER BY key DESC LIMIT 1"
_IN: Final = "(path = ? OR (path > ? AND path < ?))"
"""A level and what is below it: "/" and "0" are neighbours, so a subtree is a range of paths."""


def events(
    connection: sqlite3.Connection,
    operation_id: str,
    level: str | None,
    outcome: Outcome | None,
    since: float | None,
    upto: int | None,
    limit: int,
) -> list[Event]:
    """Return the newest events of the newest run, oldest first; ``upto`` is the highest number."""
    for key, operation_type, run in fetch(connection, _NEWEST_RUN, (operation_id,)):
        conditions = (
            (_IN, _subtree(level)),
            ("outcome = ?", None if outcome is None else (outcome.value,)),
            ("at >= ?", None if since is None else (since,)),
            ("number <= ?", None if upto is None else (upto,)),
        )
        found = _newest(connection, "events", EVENT, key, conditions, limit)
        decoded = (rows.event_of(operation_id, operation_type, run, row) for row in found)
        return [event for event in decoded if event is not None]
    return []


def logs(
    connection: sqlite3.Connection,
    operation_id: str,
    path: str | None,
    severity: int,
    since: float | None,
    after: int,
    upto: int | None,
    limit: int,
) -> list[LogRecord]:
    """Return the newest log records of the newest run, oldest first: numbers above ``after``, and not above ``upto``."""
    for key, operation_type, run in fetch(connection, _NEWEST_RUN, (operation_id,)):
        conditions = (
            (_IN, _subtree(path)),
            ("severity >= ?", (severity,) if severity > 0 else None),
            ("at >= ?", None if since is None else (since,)),
            ("number > ?", (after,)),
            ("number <= ?", None if upto is None else (upto,)),
        )
        found = _newest(connection, "logs", LOG, key, conditions, limit)
        decoded = (rows.log_of(operation_id, operation_type, run, row) for row in found)
        return [record for record in decoded if record is not None]
    return []


def previews(connection: sqlite3.Connection, operation_id: str, path: str | None, upto: int | None, limit: int) -> list[Preview]:
    """Return the newest previews of the newest run, oldest first; ``upto`` is the highest number."""
    for key, operation_type, run in fetch(connection, _NEWEST_RUN, (operation_id,)):
        conditions = ((_IN, _subtree(path)), ("number <= ?", None if upto is None else (upto,)))
        found = _newest(connection, "previews", kept.PREVIEW, key, conditions, limit)
        decoded = (kept.preview_of(operation_id, operation_type, run, row) for row in found)
        return [preview for preview in decoded if preview is not None]
    return []


def samples(
    connection: sqlite3.Connection, operation_id: str, since: float | None, upto: float | None, limit: int, moment: Moment
) -> list[ResourceSample]:
    """Return the newest samples of the newest run's process that were taken while the run lasted, oldest first.

    ``since`` in Unix seconds; ``upto`` is the latest moment on the worker's clock.
    """
    last = "WHERE o.operation_id = ? ORDER BY o.key DESC LIMIT 1"
    for _, operation in queries.operations(connection, last, (operation_id,), moment):
        root = operation.root
        where = "instance = ?"
        bound: list[object] = [root.info.instance]
        started, duration = root.info.started_clock, root.duration_s
        for condition, value in (
            ("clock >= ?", started),
            ("clock <= ?", None if started is None or duration is None else started + duration),
            ("at >= ?", since),
            ("clock <= ?", upto),
        ):
            if value is not None:
                where += f" AND {condition}"
                bound.append(value)
        query = f"SELECT {', '.join(SAMPLE)} FROM samples WHERE {where} ORDER BY clock DESC LIMIT ?"
        decoded = (rows.sample_of(row) for row in reversed(fetch(connection, query, (*bound, limit))))
        return [sample for sample in decoded if sample is not None]
    return []


def _newest(
    connection: sqlite3.Connection,
    table: str,
    columns: Sequence[str],
    key: int,
    conditions: Sequence[tuple[str, Sequence[object] | None]],
    limit: int,
) -> list[Any]:
    """Return the newest numbered rows of an operation, oldest first."""
    given = [(condition, values) for condition, values in conditions if values is not None]
    where = " AND ".join(("operation = ?", *(condition for condition, _ in given)))
    bound = (key, *(value for _, values in given for value in values), limit)
    query = f"SELECT {', '.join(columns)} FROM {table} WHERE {where} ORDER BY number DESC, writer DESC LIMIT ?"
    return fetch(connection, query, bound)[::-1]


def _subtree(path: str | None) -> tuple[str, str, str] | None:
    return (path, f"{path}/", f"{path}0") if path else None
