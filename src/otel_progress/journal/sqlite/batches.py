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
    Abandoned,
    BatchDeclaration,
    BatchTally,
    close,
    cursor_sort_key,
    merge,
    sort_key,
    starts_new_run,
    summarise,
    was_finished_at,
)
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.rows import DECLARATION, decode_declaration_row, encode_declaration_row
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.reader import read_heartbeats, select_operations
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
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


_RUNNING_BY_INSTANCE: Final = (
    "SELECT instance, count(*) FROM operations WHERE batch = ? AND status IS NULL GROUP BY instance"
)


_ALL_RUNNING_BY_INSTANCE: Final = """SELECT batch, instance, count(*) FROM operations
    WHERE batch IS NOT NULL AND finished_at IS NULL GROUP BY batch, instance"""


_RUNNING_IDS: Final = "SELECT DISTINCT operation_id FROM operations WHERE batch = ? AND status IS NULL"


_OPEN_RUNS: Final = "SELECT instance, recorded_at FROM operations WHERE batch = ? AND status IS NULL"


_KEYS: Final = "SELECT key, operation_id FROM operations WHERE batch = ? LIMIT ?"


_SESSIONS: Final = """WITH RECURSIVE sessions (key, run, operation_id, distance) AS (
    SELECT key, run, operation_id, 0 FROM operations WHERE key = ?
    UNION
    SELECT o.key, o.run, o.operation_id, s.distance + 1 FROM sessions s
    JOIN operations o ON o.operation_id = s.operation_id AND o.superseded_by = s.run
    WHERE o.key < s.key
) SELECT key FROM sessions WHERE distance > 0 ORDER BY distance DESC"""


_DETACH: Final = "UPDATE operations SET batch = NULL WHERE batch = ?"


_RESET_TALLY: Final = """UPDATE batches SET completed = 0, failed = 0, cancelled = 0, skipped = 0,
    ends = NULL, last_end = NULL WHERE id = ?"""


_EXPIRE: Final = """DELETE FROM batches WHERE seen_at < ? AND (last_end IS NULL OR last_end < ?)
    AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.batch = batches.id)"""


def upsert_declarations(
    connection: sqlite3.Connection, declarations: Iterable[BatchDeclaration], moment: ReadTime
) -> None:
    """Store declarations, each merged with the stored one of its batch.

    The declaration of a closed batch without a running operation starts a new run. The operations
    of the earlier run do not belong to the batch any more.
    """
    for declaration in declarations:
        stored = _read_declaration(connection, declaration.id)
        if stored is None:
            merged = declaration
        elif starts_new_run(declaration, stored):
            continue
        elif starts_new_run(stored, declaration) and not _has_running(connection, declaration.id, moment):
            connection.execute(_DETACH, (declaration.id,))
            connection.execute(_RESET_TALLY, (declaration.id,))
            merged = declaration
        else:
            merged = merge(stored, declaration)
        if merged != stored:
            connection.execute(_UPSERT, (*encode_declaration_row(merged), moment.now))


def close_batch(connection: sqlite3.Connection, batch_id: str, moment: ReadTime) -> bool:
    """Declare that a batch gets no more operations.

    Return False if it is unknown or was closed before.
    """
    stored = _read_declaration(connection, batch_id)
    if stored is None or stored.ended_at is not None:
        return False
    closed = close(stored, moment.now)
    connection.execute(_UPSERT, (*encode_declaration_row(closed), moment.now))
    return True


def list_running_ids(connection: sqlite3.Connection, batch_id: str) -> list[str]:
    """Return the ids of the operations of a batch that have not ended."""
    return [str(id_) for (id_,) in query_all(connection, _RUNNING_IDS, (batch_id,))]


def list_keys(connection: sqlite3.Connection, batch_id: str, limit: int) -> list[tuple[int, str]]:
    """Return key and id of at most ``limit`` operations of a batch."""
    return [(int(key), str(id_)) for key, id_ in query_all(connection, _KEYS, (batch_id, limit))]


def list_earlier_sessions(connection: sqlite3.Connection, key: int) -> list[int]:
    """Return the keys of the runs that a run continues, directly or through others.

    A run is listed before the one that continues it.
    """
    return [int(earlier) for (earlier,) in query_all(connection, _SESSIONS, (key,))]


def may_have_running(connection: sqlite3.Connection, batch_id: str, moment: ReadTime) -> bool:
    """Return True if a process of a running operation of a batch may be alive."""
    runs = query_all(connection, _OPEN_RUNS, (batch_id,))
    heartbeats = read_heartbeats(connection, {instance for instance, _ in runs})
    return any(
        moment.now - recorded_at <= UNVERIFIED_TIMEOUT_S
        if (heartbeat := heartbeats.get(instance)) is None
        else not moment.is_gone(heartbeat)
        for instance, recorded_at in runs
    )


def delete_declaration(connection: sqlite3.Connection, batch_id: str) -> bool:
    """Delete a batch with its tally. Return False if it is unknown."""
    return connection.execute("DELETE FROM batches WHERE id = ?", (batch_id,)).rowcount > 0


def _read_declaration(connection: sqlite3.Connection, batch_id: str) -> BatchDeclaration | None:
    row = next(iter(query_all(connection, _SELECT_ONE, (batch_id,))), None)
    return None if row is None else decode_declaration_row(row)


def _has_running(connection: sqlite3.Connection, batch_id: str, moment: ReadTime) -> bool:
    """Return True if an operation of a batch runs in a process that is alive."""
    counts = query_all(connection, _RUNNING_BY_INSTANCE, (batch_id,))
    running: int = sum(count for _, count in counts)
    return _find_abandoned(connection, counts, moment).count < running


def _find_abandoned(
    connection: sqlite3.Connection, counts: Sequence[tuple[str, int]], moment: ReadTime
) -> Abandoned:
    """Return the abandoned ones of running operations, given their number by process."""
    heartbeats = read_heartbeats(connection, {instance for instance, _ in counts})
    number, last_seen_at = 0, None
    for instance, count in counts:
        heartbeat = heartbeats.get(instance)
        if heartbeat is not None and not moment.get_liveness(heartbeat).alive:
            number += count
            last_seen_at = max(heartbeat.heartbeat_at, last_seen_at or heartbeat.heartbeat_at)
    return Abandoned(number, last_seen_at)


def read_batch(connection: sqlite3.Connection, batch_id: str, moment: ReadTime) -> BatchSnapshot | None:
    """Return the current state of a batch, or None."""
    for row in query_all(connection, _SELECT_ONE, (batch_id,)):
        if (declaration := decode_declaration_row(row)) is not None:
            counts = dict(query_all(connection, _COUNT_ONE, (batch_id,)))
            tally = _build_tally(row, counts)
            running = counts.get(None, 0)
            by_instance = query_all(connection, _RUNNING_BY_INSTANCE, (batch_id,)) if running else []
            abandoned = _find_abandoned(connection, by_instance, moment)
            return _build_snapshot(connection, declaration, tally, running, abandoned, moment)
    return None


def read_batches(connection: sqlite3.Connection, query: BatchQuery, moment: ReadTime) -> list[BatchSnapshot]:
    """Return batches: unfinished ones first, then the newest first, then by id."""
    listed_at = None if query.after is None else query.after.listed_at
    last = None if query.after is None else cursor_sort_key(query.after)
    counts: dict[str, dict[str | None, int]] = {}
    for batch_id, status, count in query_all(connection, _COUNT_ALL):
        counts.setdefault(batch_id, {})[status] = count
    by_instance: dict[str, list[tuple[str, int]]] = {}
    for batch_id, instance, count in query_all(connection, _ALL_RUNNING_BY_INSTANCE):
        by_instance.setdefault(batch_id, []).append((instance, count))
    found = []
    for row in query_all(connection, _SELECT_ALL):
        if (info := decode_declaration_row(row)) is not None:
            by_status = counts.get(info.id, {})
            tally, running = _build_tally(row, by_status), by_status.get(None, 0)
            abandoned = _find_abandoned(connection, by_instance.get(info.id, ()), moment)
            summary = summarise(
                info, tally, (), (), moment.now, running=running, running_ratio=0.0, abandoned=abandoned
            )
            rank = sort_key(
                was_finished_at(summary.is_finished, summary.ended_at, listed_at), info.started_at, info.id
            )
            if last is None or rank > last:
                found.append((rank, info, tally, running, abandoned))
    found.sort(key=lambda item: item[0])
    return [
        _build_snapshot(connection, info, tally, running, abandoned, moment)
        for _, info, tally, running, abandoned in found[: query.limit]
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
    connection: sqlite3.Connection,
    info: BatchDeclaration,
    tally: BatchTally,
    running: int,
    abandoned: Abandoned,
    moment: ReadTime,
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
    return summarise(
        info,
        tally,
        active,
        failed,
        moment.now,
        running=running,
        running_ratio=ratio,
        abandoned=abandoned,
    )


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
