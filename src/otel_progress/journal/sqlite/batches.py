"""Table ``batches``: declarations, and tallies of deleted operations.

Counts are read from an index alone, so a batch of 100,000 operations takes milliseconds. Every
function runs within the caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, Final

from otel_progress.batches import (
    MAX_ENDS,
    MAX_LISTED,
    BatchDeclaration,
    BatchTally,
    cursor_sort_key,
    merge,
    sort_key,
    summarise,
    was_finished_at,
)
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.rows import DECLARATION, decode_declaration_row, encode_declaration_row
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.reader import select_operations
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import BatchQuery

ENDED: Final = ("completed", "failed", "cancelled", "skipped")
"""Final statuses, which are columns of the tally in ``batches``."""


_COLUMNS: Final = ", ".join((*DECLARATION, *ENDED, "ends"))


_SELECT_ONE: Final = f"SELECT {_COLUMNS} FROM batches WHERE id = ?"


_SELECT_ALL: Final = f"SELECT {_COLUMNS} FROM batches"


_UPSERT: Final = """INSERT INTO batches (id, name, type, total, started_at, ended_at, sequence, seen_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
    SET name = excluded.name, type = excluded.type, total = excluded.total, started_at = excluded.started_at,
    ended_at = excluded.ended_at, sequence = excluded.sequence, seen_at = excluded.seen_at"""


_COUNT_ALL: Final = (
    "SELECT batch, status, count(*) FROM operations WHERE batch IS NOT NULL GROUP BY batch, status"
)


_COUNT_ONE: Final = "SELECT status, count(*) FROM operations WHERE batch = ? GROUP BY status"


_SELECT_ENDS: Final = (
    "SELECT finished_at FROM operations WHERE batch = ? AND status = ? ORDER BY finished_at DESC LIMIT ?"
)


_SUM_RATIOS: Final = """SELECT total(min(1.0, max(0.0, s.ratio))) FROM operations o
    JOIN levels l ON l.operation = o.key AND l.path = '' JOIN states s ON s.level = l.key
    WHERE o.batch = ? AND o.status IS NULL AND s.ratio IS NOT NULL"""


_ACTIVE: Final = (
    "WHERE o.batch = ? AND o.status IS NULL AND o.finished_at IS NULL ORDER BY o.key DESC LIMIT ?"
)


_FAILED: Final = "WHERE o.batch = ? AND o.status = 'failed' ORDER BY o.finished_at DESC, o.key DESC LIMIT ?"


_EXPIRE: Final = """DELETE FROM batches WHERE seen_at < ? AND (last_end IS NULL OR last_end < ?)
    AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.batch = batches.id)"""


def upsert_declarations(
    connection: sqlite3.Connection, declarations: Iterable[BatchDeclaration], at: float
) -> None:
    """Store declarations, each merged with the stored one of its batch."""
    for declaration in declarations:
        row = next(iter(query_all(connection, _SELECT_ONE, (declaration.id,))), None)
        stored = None if row is None else decode_declaration_row(row)
        merged = declaration if stored is None else merge(stored, declaration)
        if merged != stored:
            connection.execute(_UPSERT, (*encode_declaration_row(merged), at))


def read_batch(connection: sqlite3.Connection, batch_id: str, moment: ReadTime) -> BatchSnapshot | None:
    """Return the current state of a batch, or None."""
    for row in query_all(connection, _SELECT_ONE, (batch_id,)):
        if (declaration := decode_declaration_row(row)) is not None:
            counts = dict(query_all(connection, _COUNT_ONE, (batch_id,)))
            tally = _build_tally(row, counts)
            return _build_snapshot(connection, declaration, tally, counts.get(None, 0), moment)
    return None


def read_batches(connection: sqlite3.Connection, query: BatchQuery, moment: ReadTime) -> list[BatchSnapshot]:
    """Return batches: unfinished ones first, then the newest first, then by id."""
    listed_at = None if query.after is None else query.after.listed_at
    last = None if query.after is None else cursor_sort_key(query.after)
    counts: dict[str, dict[str | None, int]] = {}
    for batch_id, status, count in query_all(connection, _COUNT_ALL):
        counts.setdefault(batch_id, {})[status] = count
    found = []
    for row in query_all(connection, _SELECT_ALL):
        if (info := decode_declaration_row(row)) is not None:
            by_status = counts.get(info.id, {})
            tally, running = _build_tally(row, by_status), by_status.get(None, 0)
            summary = summarise(info, tally, (), (), moment.now, running=running, running_ratio=0.0)
            rank = sort_key(
                was_finished_at(summary.is_finished, summary.ended_at, listed_at), info.started_at, info.id
            )
            if last is None or rank > last:
                found.append((rank, info, tally, running))
    found.sort(key=lambda item: item[0])
    return [
        _build_snapshot(connection, info, tally, running, moment)
        for _, info, tally, running in found[: query.limit]
    ]


def add_deleted_runs(connection: sqlite3.Connection, runs: Sequence[tuple[str, str, float]]) -> None:
    """Add deleted runs, each as (batch, status, end), to the tallies of their batches."""
    by_batch: dict[str, list[tuple[str, float]]] = {}
    for batch_id, status, end in runs:
        if status in ENDED:
            by_batch.setdefault(batch_id, []).append((status, end))
    for batch_id, ended in by_batch.items():
        for row in query_all(connection, _SELECT_ONE, (batch_id,)):
            counts = [_to_count(row[len(DECLARATION) + index]) for index in range(len(ENDED))]
            for status, _ in ended:
                counts[ENDED.index(status)] += 1
            ends = sorted((*_decode_ends(row[-1]), *(end for _, end in ended)))[-MAX_ENDS:]
            assigned = ", ".join(f"{column} = ?" for column in (*ENDED, "ends", "last_end"))
            values = (*counts, json.dumps(ends), ends[-1], batch_id)
            connection.execute(f"UPDATE batches SET {assigned} WHERE id = ?", values)


def delete_expired(connection: sqlite3.Connection, horizon: float) -> None:
    """Delete batches without operations, unchanged since ``horizon`` (Unix seconds)."""
    connection.execute(_EXPIRE, (horizon, horizon))


def _build_snapshot(
    connection: sqlite3.Connection, info: BatchDeclaration, tally: BatchTally, running: int, moment: ReadTime
) -> BatchSnapshot:
    failed: Sequence[OperationSnapshot] = ()
    if tally.failed:
        failed = [
            operation
            for _, operation in select_operations(connection, _FAILED, (info.id, MAX_LISTED), moment)
        ]
    if tally.finished:
        ends = list(tally.ends)
        for status in ENDED:
            ends += (
                end
                for (end,) in connection.execute(_SELECT_ENDS, (info.id, status, MAX_ENDS))
                if isfinite(end)
            )
        tally = replace(tally, ends=tuple(sorted(ends)[-MAX_ENDS:]))
    if not running:
        return summarise(info, tally, (), failed, moment.now)
    active = [
        operation for _, operation in select_operations(connection, _ACTIVE, (info.id, MAX_LISTED), moment)
    ]
    ratio = None
    if running > len(active):
        (ratio,) = connection.execute(_SUM_RATIOS, (info.id,)).fetchone()
    return summarise(info, tally, active, failed, moment.now, running=running, running_ratio=ratio)


def _build_tally(row: Sequence[Any], counts: dict[str | None, int]) -> BatchTally:
    """Return the tally of deleted operations (columns of ``row``) and of stored ones."""
    deleted = zip(ENDED, row[len(DECLARATION) : -1], strict=True)
    completed, failed, cancelled, skipped = (
        _to_count(number) + counts.get(status, 0) for status, number in deleted
    )
    return BatchTally(completed, failed, cancelled, skipped, _decode_ends(row[-1]))


def _decode_ends(text: Any) -> tuple[float, ...]:
    try:
        ends = json.loads(text) if text else ()
        return tuple(sorted(float(end) for end in ends if isfinite(end)))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return ()


def _to_count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
