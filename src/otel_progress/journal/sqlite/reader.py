"""Queries of the journal. Every function runs within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, Final, TypeAlias, TypeVar

from otel_progress.journal.decoding import SAMPLE
from otel_progress.journal.invalid_rows import count_invalid_row
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.sqlite import previews, rows
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.paths import build_subtree_condition, expand_levels, expand_records
from otel_progress.journal.sqlite.rows import EVENT, LOG, STATE
from otel_progress.model import Instance, LevelSnapshot
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.protocols import EventQuery, HistoryQuery, LogQuery, PreviewQuery, ResourceQuery
from otel_progress.records import LogRecord, Preview, ResourceSample

T = TypeVar("T")


_NEWEST_RUN: Final = (
    "SELECT key, operation_type, run FROM operations WHERE operation_id = ? ORDER BY key DESC LIMIT 1"
)


def read_events(connection: sqlite3.Connection, operation_id: str, query: EventQuery) -> list[Event]:
    """Return the newest matching events of the newest run, oldest first."""
    for key, operation_type, run in query_all(connection, _NEWEST_RUN, (operation_id,)):
        conditions = (
            _build_path_condition(connection, key, query.path),
            ("outcome = ?", None if query.outcome is None else (query.outcome.value,)),
            ("at >= ?", None if query.since is None else (query.since,)),
            ("number <= ?", None if query.max_number is None else (query.max_number,)),
        )
        found = _select_newest(connection, "events", EVENT, key, conditions, query.limit)
        decoded = (rows.decode_event_row(operation_id, operation_type, run, row) for row in found)
        return expand_records(connection, key, _select_valid("event", key, found, decoded))
    return []


def read_logs(connection: sqlite3.Connection, operation_id: str, query: LogQuery) -> list[LogRecord]:
    """Return the newest matching log records of the newest run, oldest first."""
    for key, operation_type, run in query_all(connection, _NEWEST_RUN, (operation_id,)):
        conditions = (
            _build_path_condition(connection, key, query.path),
            ("severity >= ?", None if query.severity == 0 else (query.severity,)),
            ("at >= ?", None if query.since is None else (query.since,)),
            ("number > ?", (query.after,)),
            ("number <= ?", None if query.max_number is None else (query.max_number,)),
        )
        found = _select_newest(connection, "logs", LOG, key, conditions, query.limit)
        decoded = (rows.decode_log_row(operation_id, operation_type, run, row) for row in found)
        return expand_records(connection, key, _select_valid("log record", key, found, decoded))
    return []


def read_previews(connection: sqlite3.Connection, operation_id: str, query: PreviewQuery) -> list[Preview]:
    """Return the newest matching previews of the newest run, oldest first."""
    for key, operation_type, run in query_all(connection, _NEWEST_RUN, (operation_id,)):
        conditions = (
            _build_path_condition(connection, key, query.path),
            ("number <= ?", None if query.max_number is None else (query.max_number,)),
        )
        found = _select_newest(connection, "previews", previews.PREVIEW, key, conditions, query.limit)
        decoded = (previews.decode_preview_row(operation_id, operation_type, run, row) for row in found)
        return expand_records(connection, key, _select_valid("preview", key, found, decoded))
    return []


def read_samples(
    connection: sqlite3.Connection, operation_id: str, query: ResourceQuery, moment: ReadTime
) -> list[ResourceSample]:
    """Return samples that were made during the newest run, oldest first."""
    newest = "WHERE o.operation_id = ? ORDER BY o.key DESC LIMIT 1"
    for _, operation in select_operations(connection, newest, (operation_id,), moment):
        root = operation.root
        where = "instance = ?"
        bound: list[object] = [root.info.instance]
        started, duration = root.info.started_clock, root.duration_s
        for condition, value in (
            ("clock >= ?", started),
            ("clock <= ?", None if started is None or duration is None else started + duration),
            ("at >= ?", query.since),
            ("clock <= ?", query.max_clock),
        ):
            if value is not None:
                where += f" AND {condition}"
                bound.append(value)
        sql = f"SELECT {', '.join(SAMPLE)} FROM samples WHERE {where} ORDER BY clock DESC LIMIT ?"
        found = query_all(connection, sql, (*bound, query.limit))[::-1]
        decoded = (rows.decode_sample_row(row) for row in found)
        return _select_valid("resource sample", root.info.instance, found, decoded)
    return []


def _select_valid(
    kind: str, owner: object, found: Iterable[Sequence[Any]], decoded: Iterable[T | None]
) -> list[T]:
    """Return the decoded rows, and count those that are invalid."""
    result = []
    for row, record in zip(found, decoded, strict=True):
        if record is None:
            count_invalid_row(kind, owner, *row)
        else:
            result.append(record)
    return result


def _select_newest(
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
    query = (
        f"SELECT {', '.join(columns)} FROM {table} WHERE {where} ORDER BY number DESC, writer DESC LIMIT ?"
    )
    return query_all(connection, query, bound)[::-1]


def _build_path_condition(
    connection: sqlite3.Connection, operation: int, path: str | None
) -> tuple[str, Sequence[object] | None]:
    return build_subtree_condition(connection, operation, path) if path else ("", None)


KeyedOperation: TypeAlias = "tuple[int, OperationSnapshot]"
"""An operation with its database key."""


_MAX_VALUES_PER_STATEMENT: Final = 500
"""Values bound to one statement. More are split. Old SQLite versions accept 999."""


_DERIVED: Final = {"stall_after_s": "coalesce(s.stall_after_s, max(60.0, 3.0 * s.longest_gap_s))"}
"""Columns that processes of earlier versions do not write, derived from their columns."""


_STATE: Final = ", ".join(_DERIVED.get(column, f"s.{column}") for column in STATE)


_OPERATION: Final = f"""SELECT o.key, o.instance, o.run, u.use, r.at, l.info, {_STATE} FROM operations o
    JOIN levels l ON l.operation = o.key AND l.path = '' JOIN states s ON s.level = l.key
    LEFT JOIN uses u ON u.operation = o.key LEFT JOIN requests r ON r.operation = o.key"""


_LEVEL: Final = f"SELECT l.operation, l.info, {_STATE} FROM levels l JOIN states s ON s.level = l.key"


_ACTIVE: Final = "WHERE o.finished_at IS NULL"


_SELECT_HEARTBEAT: Final = (
    "SELECT id, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock FROM instances"
)


def read_newest_run(
    connection: sqlite3.Connection, operation_id: str, moment: ReadTime
) -> OperationSnapshot | None:
    """Return the newest run of an operation with its levels."""
    found = select_operations(
        connection, "WHERE o.operation_id = ? ORDER BY o.key DESC LIMIT 1", (operation_id,), moment
    )
    return add_levels(connection, found)[0] if found else None


def read_active(connection: sqlite3.Connection, moment: ReadTime) -> list[KeyedOperation]:
    """Return active operations without levels, newest first."""
    return select_operations(connection, f"{_ACTIVE} ORDER BY o.key DESC", (), moment)


def read_changed(connection: sqlite3.Connection, revision: int, moment: ReadTime) -> list[KeyedOperation]:
    """Return operations that changed after ``revision``, without levels, newest first."""
    found = select_operations(connection, f"{_ACTIVE} AND o.revision > ?", (revision,), moment)
    found += select_operations(
        connection, "WHERE o.finished_at IS NOT NULL AND o.revision > ?", (revision,), moment
    )
    return sorted(found, key=lambda item: -item[0])


def read_history(
    connection: sqlite3.Connection, query: HistoryQuery, moment: ReadTime
) -> list[OperationSnapshot]:
    """Return ended operations without levels, the last one first.

    Rows that cannot be decoded are skipped without shortening the page.
    """
    found: list[OperationSnapshot] = []
    before = query.before
    while len(found) < query.limit:
        where = "o.finished_at IS NOT NULL"
        bound: list[object] = []
        for condition, values in (
            ("o.operation_type = ?", None if query.operation_type is None else (query.operation_type,)),
            ("(o.finished_at, o.run) < (?, ?)", before),
            ("o.finished_at >= ?", None if query.since is None else (query.since,)),
        ):
            if values is not None:
                where += f" AND {condition}"
                bound += values
        bound.append(min(query.limit - len(found), _MAX_VALUES_PER_STATEMENT))
        page = (
            f"SELECT o.finished_at, o.run, o.key FROM operations o WHERE {where} "
            "ORDER BY o.finished_at DESC, o.run DESC LIMIT ?"
        )
        ends = query_all(connection, page, bound)
        if not ends:
            break
        before, keys = ends[-1][:2], [key for *_, key in ends]
        known = dict(select_operations(connection, f"WHERE o.key IN ({_marks(keys)})", keys, moment))
        found += (known[key] for key in keys if key in known)
        for _, run, key in ends:
            if key not in known:
                count_invalid_row("operation", run)
    return found


def read_revision(connection: sqlite3.Connection) -> int:
    """Return the number of the last transaction that changed an operation."""
    (number,) = connection.execute("SELECT revision FROM counters").fetchone()
    return int(number)


def read_heartbeats(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, Heartbeat]:
    """Return the last heartbeats of processes by id, without missing and invalid ones."""
    heartbeats = {}
    for chunk in _split_into_chunks(list(ids)):
        for row in query_all(connection, f"{_SELECT_HEARTBEAT} WHERE id IN ({_marks(chunk)})", chunk):
            if (heartbeat := decode_heartbeat_row(row)) is not None:
                heartbeats[heartbeat.instance.id] = heartbeat
            else:
                count_invalid_row("process", *row)
    return heartbeats


def add_levels(connection: sqlite3.Connection, found: Sequence[KeyedOperation]) -> list[OperationSnapshot]:
    """Return the operations with their stored levels."""
    levels: dict[int, list[LevelSnapshot]] = {key: [] for key, _ in found}
    for chunk in _split_into_chunks(list(levels)):
        for key, info, *state in query_all(
            connection, f"{_LEVEL} WHERE l.operation IN ({_marks(chunk)}) AND l.path <> ''", chunk
        ):
            level = rows.decode_snapshot_row(info, state)
            # A damaged index may have another key than the row.
            if level is not None and key in levels:
                levels[key].append(level)
            else:
                count_invalid_row("level", key, info)
    return [
        replace(operation, levels=sort_depth_first(expand_levels(connection, key, levels[key])), _index={})
        for key, operation in found
    ]


def sort_depth_first(levels: Iterable[LevelSnapshot]) -> tuple[LevelSnapshot, ...]:
    """Return the levels in depth-first order, siblings sorted by ``order``."""
    known = {level.info.path: level for level in levels}
    children: dict[str, list[LevelSnapshot]] = {}
    for level in known.values():
        above = level.info.parent_path
        # A parent is missing if it was evicted, or if another process has not written it yet.
        while above and above not in known:
            above = above.rpartition("/")[0]
        children.setdefault(above or "", []).append(level)
    for siblings in children.values():
        # Why reverse: siblings are popped from the end.
        siblings.sort(key=lambda level: (level.info.order, level.info.path), reverse=True)
    result, waiting = [], children.get("", [])
    while waiting:
        level = waiting.pop()
        result.append(level)
        waiting += children.get(level.info.path, ())
    return tuple(result)


def select_operations(
    connection: sqlite3.Connection, rest: str, bound: Sequence[object], moment: ReadTime
) -> list[KeyedOperation]:
    """Return the operations that a query ending with ``rest`` selects, without levels."""
    answer = query_all(connection, f"{_OPERATION} {rest}", bound)
    heartbeats = read_heartbeats(connection, {row[1] for row in answer})
    found = []
    for key, instance, run, use, cancelled, info, *state in answer:
        if (root := rows.decode_snapshot_row(info, state)) is not None:
            found.append((key, _build_operation(root, heartbeats.get(instance), use, cancelled, moment)))
        else:
            count_invalid_row("operation", run)
    return found


def _build_operation(
    root: LevelSnapshot, heartbeat: Heartbeat | None, use: Any, cancelled: Any, moment: ReadTime
) -> OperationSnapshot:
    instance = None if heartbeat is None else heartbeat.instance
    # Without a heartbeat, the snapshot itself is the last one.
    if heartbeat is None:
        process = Instance(root.info.instance, 0, "", "", 0.0)
        heartbeat = Heartbeat(process, root.observed_at, root.observed_clock)
    liveness = moment.get_liveness(heartbeat)
    return OperationSnapshot(
        root,
        (),
        moment.now,
        liveness.clock,
        instance,
        liveness.alive,
        not_reporting_since=None if root.status.finished else liveness.not_reporting_since,
        resources=None if use is None else rows.decode_use_or_none(use),
        cancel_requested_at=cancelled if type(cancelled) is float and isfinite(cancelled) else None,
    )


def decode_heartbeat_row(row: Sequence[Any]) -> Heartbeat | None:
    """Return the heartbeat of a row of ``instances``, or None if a value is invalid."""
    identity, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock = row
    if {type(identity), type(host), type(service)} != {str}:
        return None
    if {type(heartbeat_at), type(heartbeat_clock)} != {float}:
        return None
    if type(pid) is not int or type(started_at) is not float or not (start is None or type(start) is int):
        return None
    if not isfinite(heartbeat_at) or not isfinite(heartbeat_clock) or not isfinite(started_at):
        return None
    return Heartbeat(Instance(identity, pid, host, service, started_at, start), heartbeat_at, heartbeat_clock)


def _split_into_chunks(values: list[Any]) -> Iterable[list[Any]]:
    return (
        values[start : start + _MAX_VALUES_PER_STATEMENT]
        for start in range(0, len(values), _MAX_VALUES_PER_STATEMENT)
    )


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
