"""Batches in the journal: what was declared, what became of the operations that were deleted, and how the others fare.

Counts come from an index alone, so a batch of 100,000 operations is answered in milliseconds. Every function runs within the
caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from operator import attrgetter
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
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.reader import operations
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import BatchQuery

ENDED: Final = ("completed", "failed", "cancelled", "skipped")
"""How an operation ends; columns of the tally in ``batches``."""


_INFO: Final = ("id", "name", "type", "total", "started_at", "ended_at", "sequence")


_values: Final = attrgetter(*_INFO)


_COLUMNS: Final = ", ".join((*_INFO, *ENDED, "ends"))


_ONE: Final = f"SELECT {_COLUMNS} FROM batches WHERE id = ?"


_ALL: Final = f"SELECT {_COLUMNS} FROM batches"


_SAVE: Final = """INSERT INTO batches (id, name, type, total, started_at, ended_at, sequence, seen_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
    SET name = excluded.name, type = excluded.type, total = excluded.total, started_at = excluded.started_at,
    ended_at = excluded.ended_at, sequence = excluded.sequence, seen_at = excluded.seen_at"""


_COUNTS: Final = (
    "SELECT batch, status, count(*) FROM operations WHERE batch IS NOT NULL GROUP BY batch, status"
)


_COUNT: Final = "SELECT status, count(*) FROM operations WHERE batch = ? GROUP BY status"


_ENDS: Final = (
    "SELECT finished_at FROM operations WHERE batch = ? AND status = ? ORDER BY finished_at DESC LIMIT ?"
)


_RATIOS: Final = """SELECT total(min(1.0, max(0.0, s.ratio))) FROM operations o
    JOIN levels l ON l.operation = o.key AND l.path = '' JOIN states s ON s.level = l.key
    WHERE o.batch = ? AND o.status IS NULL AND s.ratio IS NOT NULL"""


_ACTIVE: Final = (
    "WHERE o.batch = ? AND o.status IS NULL AND o.finished_at IS NULL ORDER BY o.key DESC LIMIT ?"
)


_FAILED: Final = "WHERE o.batch = ? AND o.status = 'failed' ORDER BY o.finished_at DESC, o.key DESC LIMIT ?"


_EXPIRE: Final = """DELETE FROM batches WHERE seen_at < ? AND (last_end IS NULL OR last_end < ?)
    AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.batch = batches.id)"""


def undeclared(batch_id: str, started_at: float) -> BatchDeclaration:
    """Return what stands for a batch of which only an operation is known, until somebody declares it."""
    return BatchDeclaration(batch_id, batch_id, "batch", None, started_at, None, 0)


def declare(connection: sqlite3.Connection, infos: Iterable[BatchDeclaration], at: float) -> None:
    """Keep declarations, each merged with what is known of its batch."""
    for info in infos:
        row = next(iter(query_all(connection, _ONE, (info.id,))), None)
        known = None if row is None else _info_of(row)
        merged = info if known is None else merge(known, info)
        if merged != known:
            connection.execute(_SAVE, (*_values(merged), at))


def get(connection: sqlite3.Connection, batch_id: str, moment: ReadTime) -> BatchSnapshot | None:
    """Return a batch, or None."""
    for row in query_all(connection, _ONE, (batch_id,)):
        if (info := _info_of(row)) is not None:
            counts = dict(query_all(connection, _COUNT, (batch_id,)))
            return _summary(connection, info, _tally(row, counts), counts.get(None, 0), moment)
    return None


def newest(connection: sqlite3.Connection, query: BatchQuery, moment: ReadTime) -> list[BatchSnapshot]:
    """Return batches: unfinished ones first, then the newest first, then by id."""
    after = query.after
    begun, last = (None, None) if after is None else (after.listed_at, cursor_sort_key(after))
    counts: dict[str, dict[str | None, int]] = {}
    for batch_id, status, count in query_all(connection, _COUNTS):
        counts.setdefault(batch_id, {})[status] = count
    found = []
    for row in query_all(connection, _ALL):
        if (info := _info_of(row)) is not None:
            of_it = counts.get(info.id, {})
            tally, running = _tally(row, of_it), of_it.get(None, 0)
            glance = summarise(info, tally, (), (), moment.now, running=running, running_ratio=0.0)
            here = sort_key(
                was_finished_at(glance.is_finished, glance.ended_at, begun), info.started_at, info.id
            )
            if last is None or here > last:
                found.append((here, info, tally, running))
    found.sort(key=lambda item: item[0])
    return [
        _summary(connection, info, tally, running, moment) for _, info, tally, running in found[: query.limit]
    ]


def fold(connection: sqlite3.Connection, gone: Sequence[tuple[str, str, float]]) -> None:
    """Count ended operations that were deleted, each as (batch, status, end), in the tallies of their batches."""
    by_batch: dict[str, list[tuple[str, float]]] = {}
    for batch_id, status, end in gone:
        if status in ENDED:
            by_batch.setdefault(batch_id, []).append((status, end))
    for batch_id, ended in by_batch.items():
        for row in query_all(connection, _ONE, (batch_id,)):
            counts = [_natural(row[len(_INFO) + index]) for index in range(len(ENDED))]
            for status, _ in ended:
                counts[ENDED.index(status)] += 1
            ends = sorted((*_ends_of(row[-1]), *(end for _, end in ended)))[-MAX_ENDS:]
            assigned = ", ".join(f"{column} = ?" for column in (*ENDED, "ends", "last_end"))
            bound = (*counts, json.dumps(ends), ends[-1], batch_id)
            connection.execute(f"UPDATE batches SET {assigned} WHERE id = ?", bound)


def expire(connection: sqlite3.Connection, horizon: float) -> None:
    """Delete batches that have no operations any more, and of which nothing was heard since ``horizon`` (Unix seconds)."""
    connection.execute(_EXPIRE, (horizon, horizon))


def _summary(
    connection: sqlite3.Connection, info: BatchDeclaration, tally: BatchTally, running: int, moment: ReadTime
) -> BatchSnapshot:
    failed: Sequence[OperationSnapshot] = ()
    if tally.failed:
        failed = [
            operation for _, operation in operations(connection, _FAILED, (info.id, MAX_LISTED), moment)
        ]
    if tally.finished:
        ends = list(tally.ends)
        for status in ENDED:
            ends += (
                end for (end,) in connection.execute(_ENDS, (info.id, status, MAX_ENDS)) if isfinite(end)
            )
        tally = replace(tally, ends=tuple(sorted(ends)[-MAX_ENDS:]))
    if not running:
        return summarise(info, tally, (), failed, moment.now)
    active = [operation for _, operation in operations(connection, _ACTIVE, (info.id, MAX_LISTED), moment)]
    ratio = None
    if running > len(active):
        (ratio,) = connection.execute(_RATIOS, (info.id,)).fetchone()
    return summarise(info, tally, active, failed, moment.now, running=running, running_ratio=ratio)


def _tally(row: Sequence[Any], counts: dict[str | None, int]) -> BatchTally:
    """Return how the operations ended, those that were deleted (columns of ``row``) and those that are kept."""
    gone = zip(ENDED, row[len(_INFO) : -1], strict=True)
    completed, failed, cancelled, skipped = (
        _natural(number) + counts.get(status, 0) for status, number in gone
    )
    return BatchTally(completed, failed, cancelled, skipped, _ends_of(row[-1]))


def _info_of(row: Sequence[Any]) -> BatchDeclaration | None:
    """Return the declaration of a row, None when it is not one."""
    info = BatchDeclaration(*row[: len(_INFO)])
    if {type(info.id), type(info.name), type(info.type)} != {str} or type(info.sequence) is not int:
        return None
    if type(info.started_at) is not float or not isfinite(info.started_at):
        return None
    total = info.total if type(info.total) is int else None
    ended_at = info.ended_at if type(info.ended_at) is float and isfinite(info.ended_at) else None
    return replace(info, total=total, ended_at=ended_at)


def _ends_of(text: Any) -> tuple[float, ...]:
    try:
        found = json.loads(text) if text else ()
        return tuple(sorted(float(end) for end in found if isfinite(end)))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return ()


def _natural(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
